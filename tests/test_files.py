"""Files and folders are whole or not there, and cost a user no other one."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from laterna import files
from laterna.errors import LaternaError
from laterna.files import MADE, Made, held, read_made, recover, sweep, write_atomically
from laterna.locks import locked

BOOK = Made(kind="book", of={"words": "1"})
SOURCE = str(Path(__file__).parent.parent / "src")


def write_book(path: Path, words: str, *, overwrite: bool = False) -> None:
    made = Made(kind="book", of={"words": words})
    with write_atomically(path, made, overwrite=overwrite) as aside:
        aside.mkdir()
        (aside / "chapter").mkdir()
        (aside / "chapter" / "text").write_text(words)


def read_book(path: Path) -> str:
    assert sorted(item.name for item in path.iterdir()) == [MADE, "chapter"]
    return (path / "chapter" / "text").read_text()


def in_a_process(script: str, *args: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.txt"
    with write_atomically(path) as aside:
        aside.write_text("half")
        assert not path.exists()
        aside.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as aside:
        aside.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_by_the_same_made_again_or_where_it_is_asked_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "book"
    write_book(path, "1")
    write_book(path, "1")
    with pytest.raises(
        LaternaError, match=r"book made differently \(words 1, now 2\); .*overwrite"
    ):
        write_book(path, "2")
    with pytest.raises(LaternaError, match="holds a book; name a new folder"):
        files.require_same_or_asked(path, Made(kind="book"))
    assert read_book(path) == "1"
    write_book(path, "2", overwrite=True)
    assert read_book(path) == "2"
    assert list(tmp_path.iterdir()) == [path]


def test_a_setting_that_is_empty_is_shown_as_none(tmp_path: Path) -> None:
    with files.write_atomically(tmp_path / "page", Made(kind="answer", of={"by": ""})) as aside:
        aside.mkdir(exist_ok=True)
    with pytest.raises(LaternaError, match=r"holds an answer made differently \(by –, now me\)"):
        files.require_same_or_asked(tmp_path / "page", Made(kind="answer", of={"by": "me"}))


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "book"
    write_book(path, "1")
    with pytest.raises(ZeroDivisionError), write_atomically(path, BOOK) as aside:
        aside.mkdir()
        (aside / "new").write_text("new")
        raise ZeroDivisionError
    assert read_book(path) == "1"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("foreign", ["notes.txt", "chapter/notes.txt", ".hidden", "link"])
def test_what_is_not_ours_survives_whatever_is_asked(tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "book"
    write_book(path, "1")
    if foreign == "link":
        (path / foreign).symlink_to(tmp_path)
    else:
        (path / foreign).write_text("mine")
    for words in "12":
        with pytest.raises(LaternaError, match=rf"other files than its book \({foreign}\)"):
            write_book(path, words, overwrite=True)
    assert os.path.lexists(path / foreign)
    assert (path / "chapter" / "text").read_text() == "1"


def test_a_foreign_file_that_comes_while_it_is_written_survives(tmp_path: Path) -> None:
    path = tmp_path / "book"
    write_book(path, "1")
    with (
        pytest.raises(LaternaError, match=r"\(notes\)"),
        write_atomically(path, BOOK) as aside,
    ):
        aside.mkdir()
        (path / "notes").write_text("mine")
    assert (path / "notes").read_text() == "mine"
    assert (path / "chapter" / "text").read_text() == "1"


def test_what_laterna_puts_in_later_is_no_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "book"
    made = Made(kind="book", of={"words": "1"}, later=("note-*",))
    for number in range(2):
        with write_atomically(path, made) as aside:
            aside.mkdir()
        (path / f"note-{number}").write_text("later")
    assert sorted(item.name for item in path.iterdir()) == [MADE, "note-1"]


def test_each_thing_replaces_only_its_like(tmp_path: Path) -> None:
    file, folder, other = tmp_path / "file", tmp_path / "folder", tmp_path / "other"
    file.write_text("mine")
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    write_book(other, "1")
    os.mkfifo(tmp_path / "pipe")
    film = Made(kind="film", of={"words": "1"})
    for path, made, said in (
        (folder, None, "folder is a folder; name the file to write"),
        (file, BOOK, "file is a file; name a folder for the book"),
        (folder, BOOK, r"folder: is not empty, and not Laterna's book: it holds thesis\.tex"),
        (other, film, "other: holds Laterna's book, no film"),
        (other / "chapter" / "text", None, "text: belongs to the book"),
        (tmp_path / "pipe", None, "pipe is not a regular file"),
        (Path("/dev/stdout"), None, "stdout is not a regular file"),  # may lead to a log
        (Path("/dev/fd/1"), None, "fd/1 is not a regular file"),
        (file / "below", None, "file is a file, so nothing can be written inside it"),
    ):
        with (
            pytest.raises(LaternaError, match=said),
            write_atomically(path, made, overwrite=True) as _,
        ):
            pytest.fail("nothing is begun")
    assert file.read_text() == (folder / "thesis.tex").read_text() == "mine"
    assert read_book(other) == "1"
    assert len(list(tmp_path.iterdir())) == 4


def test_links_are_followed_and_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    book, page = tmp_path / "book", tmp_path / "page"
    book.symlink_to(tmp_path / "real" / "book")
    page.symlink_to(tmp_path / "real" / "page")
    for _ in range(2):
        write_book(book, "1")
        with write_atomically(page) as aside:
            aside.write_text("1")
    assert book.is_symlink() and page.is_symlink()
    assert read_book(tmp_path / "real" / "book") == (tmp_path / "real" / "page").read_text() == "1"
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(LaternaError, match="round"):
        write_book(tmp_path / "round", "1")


def test_the_folder_one_stands_in_is_filled_where_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    was = tmp_path.stat().st_ino
    write_book(Path(), "1")
    assert tmp_path.stat().st_ino == was == Path.cwd().stat().st_ino
    assert read_book(tmp_path) == "1"
    with pytest.raises(LaternaError, match="is the current folder or a mount point"):
        write_book(Path(), "1")
    assert read_book(tmp_path) == "1"


STEPS = """
import os, signal, sys
from pathlib import Path
from laterna import files
from laterna.files import Made, write_atomically
left = int(sys.argv[2])
def counted(function):
    def do(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*args, **kwargs)
    return do
for owner, name in ((Path, "rename"), (Path, "replace"), (Path, "rmdir"), (Path, "unlink"),
                    (Path, "mkdir"), (Path, "write_bytes"), (Path, "write_text"),
                    (files, "_remove"), (files, "_say_made"), (files.shutil, "rmtree")):
    setattr(owner, name, counted(getattr(owner, name)))
if len(sys.argv) > 3:
    os.chdir(sys.argv[1])
with write_atomically(Path(sys.argv[1]), Made(kind="book", of={"words": "2"}), overwrite=True) as a:
    a.mkdir()
    (a / "chapter").mkdir()
    (a / "chapter" / "text").write_text("2")
print("whole")
"""


@pytest.mark.parametrize("before", ["another", "nothing", "the folder it stands in"])
def test_killed_at_any_step_the_old_or_the_new_is_there(tmp_path: Path, before: str) -> None:
    """The process dies before each of its changes to the disk in turn."""
    seen: set[str] = set()
    for step in itertools.count():
        folder = tmp_path / str(step)
        path = folder / "book"
        path.mkdir(parents=True)
        if before == "another":
            write_book(path, "1")
        inside = [Path("inside")] if before.startswith("the folder") else []
        writer = in_a_process(STEPS, path, Path(str(step)), *inside)
        out, _ = writer.communicate(timeout=60)
        recover(path)
        there = read_book(path) if (path / MADE).exists() else "nothing"
        seen.add(there)
        assert there in (("1", "2") if before == "another" else ("nothing", "2")), step
        assert [one.name for one in folder.iterdir()] == ["book"], step
        write_book(path, "2", overwrite=True)
        assert read_book(path) == "2"
        if out:
            break
        assert writer.returncode == -signal.SIGKILL
    assert step > 5
    assert len(seen) == 2


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(
    tmp_path: Path,
) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from laterna.files import write_atomically\n"
        "with write_atomically(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half')\n"
        "    print('there', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    writers = [in_a_process(script, tmp_path / name) for name in "aab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "there\n"
    boxes = [".a.part", ".a.part1", ".b.part"]
    assert sorted(one.name for one in tmp_path.iterdir()) == boxes
    sweep(tmp_path)
    recover(tmp_path / "a")
    assert sorted(one.name for one in tmp_path.iterdir()) == boxes
    for writer in writers[:2]:
        writer.kill()
        writer.wait(timeout=60)
    sweep(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [".b.part"]
    writers[2].communicate("", timeout=60)
    assert [one.name for one in tmp_path.iterdir()] == ["b"]


def test_a_folder_of_a_users_that_looks_like_one_left_over_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part" / "mine").write_text("mine")
    sweep(tmp_path)
    with write_atomically(tmp_path / "a") as aside:
        aside.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert (tmp_path / ".a.part" / "mine").read_text() == "mine"


def test_two_cannot_hold_one_place_and_the_message_names_who_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from laterna.files import held\n"
        "with held(Path(sys.argv[1]), 'a test'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    holder = in_a_process(script, tmp_path / "place")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(files, "LOCK_WAIT", 0.2)
    with (
        pytest.raises(LaternaError, match=rf"another run: .*a test \(process {holder.pid} on "),
        held(tmp_path / "place", "a test"),
    ):
        pytest.fail("it is held")
    holder.kill()  # the kernel lets go of it, whatever is left on the disk
    monkeypatch.setattr(files, "LOCK_WAIT", 10.0)
    with held(tmp_path / "place", "a test"):
        assert (tmp_path / ".place.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def test_what_a_folder_is_made_of_stands_in_it(tmp_path: Path) -> None:
    write_book(tmp_path / "book", "1")
    assert read_made(tmp_path / "book") == Made(
        kind="book", of={"words": "1"}, files=("chapter/text",)
    )
    (tmp_path / "book" / MADE).write_text("{")
    assert read_made(tmp_path / "book") is None


def test_a_place_where_no_folder_can_be_made_ends_the_work(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        locked(tmp_path / "removed" / "box", os.O_RDONLY, folder=True)


@pytest.mark.parametrize("before", [False, True])
def test_the_disk_holds_all_of_it_before_it_has_its_name(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a name leads to what was written, never to an empty file."""
    book, page = tmp_path / "book", tmp_path / "page"
    if before:
        write_book(book, "1")
        page.write_text("old")
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        whole = not book.exists() or read_book(book) == "1"
        flushed.append(f"{path}{'' if whole else ' (renamed)'}")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_book(book, "2", overwrite=True)
    inside = [f".book.part/new{end}" for end in ("", "/chapter", "/chapter/text", f"/{MADE}")]
    assert sorted(flushed) == sorted([". (renamed)", ".book.part", *inside])
    assert flushed[-1] == ". (renamed)"
    flushed.clear()
    with write_atomically(page) as aside:
        aside.write_text("new")
    assert flushed == [f"{one} (renamed)" for one in (".page.part/new", ".page.part", ".")]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError("98304 requested and 34112 written"), "the disk is full"),  # numpy's
        (RuntimeError("serializing: I/O error: File too large (os error 27)"), "os error 27"),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
    ],
)
def test_a_full_disk_is_told_in_a_sentence_and_leaves_what_was_there(
    error: Exception, why: str, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    page.write_text("old")
    with (
        pytest.raises(LaternaError, match=rf"page: cannot be written: .*{why}.*; make room"),
        write_atomically(page) as aside,
    ):
        aside.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert page.read_text() == "old"


@pytest.mark.parametrize("error", [ValueError("no fault of it"), LaternaError("disk is full")])
def test_other_errors_stay_what_they_are(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as caught, write_atomically(tmp_path / "x"):
        raise error  # one that speaks to a person has said it already
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []
