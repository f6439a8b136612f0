"""Processes beside this one: what they come to, and what is said when one ends or cannot begin."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laterna.data.preparation.checking import Job
from laterna.data.preparation.workers import do_chunks
from laterna.data.sources import open_source
from laterna.errors import LaternaError
from laterna.recipe import SourceSettings

SCRIPT = """
from pathlib import Path
from transformers import AutoTokenizer
from laterna.data.images.tokens import SameTokens
from laterna.data.preparation import prepare
from laterna.recipe import SourceSettings
def main():
    tokenizer = AutoTokenizer.from_pretrained({tokenizer!r})
    prepared = prepare(
        [SourceSettings(data={data!r})], tokenizer, template=tokenizer.chat_template,
        image_tokens=SameTokens(tokens=1), max_tokens=99, folder=Path({folder!r}), workers=2,
    )
    print(len(prepared.samples))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of eleven chunks: enough for other processes."""
    spoken = [{"from": "human", "value": "Is it red?"}, {"from": "gpt", "value": "Yes."}]
    rows = [{"id": number, "conversations": spoken} for number in range(5_300)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named(data: Path, tmp_path: Path, tiny_tokenizer: Any) -> None:
    source = open_source(SourceSettings(data=str(data)))
    job = Job(form=source.form, template=tiny_tokenizer.chat_template, prepared=str(tmp_path))
    done = do_chunks(source.chunks(), job, tiny_tokenizer, 2)
    assert next(done).kept > 0
    killed = multiprocessing.active_children()[0]
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    with pytest.raises(LaternaError, match=rf"process {killed.pid}\) was killed by SIGKILL"):
        list(done)
    assert killed not in multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_without_a_guard_is_told_so(
    guarded: bool, data: Path, tmp_path: Path, tiny_models: Path
) -> None:
    script = tmp_path / "script.py"
    names = {"tokenizer": f"{tiny_models}/language", "data": str(data), "folder": f"{tmp_path}/p"}
    call = 'if __name__ == "__main__":\n    main()' if guarded else "main()"
    script.write_text(SCRIPT.format(**names) + call)
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )
    if guarded:
        assert ran.stdout == "5300\n", ran.stderr
    else:
        assert ran.returncode == 1
        last = ran.stderr.strip().splitlines()[-1]
        assert re.search(r"LaternaError: a worker .* needs `if __name__ == \"__main__\":`", last)
