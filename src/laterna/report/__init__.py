"""One offline HTML page from any run."""
