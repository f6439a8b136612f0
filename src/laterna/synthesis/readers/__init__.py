"""One file for each form that annotated pictures come in; all of them yield scenes one by one."""
