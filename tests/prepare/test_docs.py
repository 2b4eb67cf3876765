import subprocess
import sys
from pathlib import Path

import pytest

from golf.prepare import docs
from golf.prepare.docs import extract_documents, list_python_files, package_licence, read_docs

LONG = "This sentence is long enough to stand for the prose that a reader would find in a manual. " * 3


def indented(text: str, by: str) -> str:
    return text.replace("\n", "\n" + by)


def test_docstrings_of_modules_classes_and_functions_are_documents():
    code = f'''"""Module. {LONG}"""
class A:
    """Class. {LONG}"""
    def method(self):
        """Method. {LONG}"""
        def inner():
            """Inner. {LONG}"""
if True:
    async def guarded():
        """Guarded. {LONG}"""
'''
    heads = [document.split(".")[0] for document in extract_documents(code.encode())]
    assert heads == ["Module", "Class", "Method", "Inner", "Guarded"]


def test_docstrings_added_by_call_and_help_topics_are_documents():
    code = f"""add_docstr(abs, r'''Added. {LONG}''')
topics = {{"k": "Topic. {LONG}"}}
other = '''Data. {LONG}'''
"""
    heads = [document.split(".")[0] for document in extract_documents(code.encode())]
    assert heads == ["Added", "Topic"]


def test_short_strings_and_tables_are_no_documents():
    table = "\n".join(f"| {number} | 0x{number:04x} | {number / 7:.6f} |" for number in range(50))
    assert extract_documents(f'"""Short."""\ndef f():\n    """{table}"""\n'.encode()) == []


def test_indentation_and_blank_lines_are_tidied():
    code = f'def f():\n    """First line.\n\n\n\n    {LONG}\n        kept   \n    """\n'
    assert extract_documents(code.encode()) == [f"First line.\n\n{LONG.strip()}\n    kept"]


def test_code_of_another_python_is_refused():
    for code in (b"print 'hello'", b"\0", b"# coding: nonsense\n'''x'''"):
        with pytest.raises((SyntaxError, ValueError)):
            extract_documents(code)


def test_python_files_are_listed_in_order_without_tests(tmp_path: Path):
    for name in ("b/z.py", "b/a.py", "a.py", "tests/t.py", "b/test/u.py", "b/__pycache__/c.py", "b/n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in list_python_files(tmp_path)]
    assert found == ["a.py", "b/a.py", "b/z.py"]


@pytest.fixture
def small_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library of three files, one of them unreadable, and no packages."""
    for name, text in (("one", f'"""One. {LONG}"""\n'), ("two", f'"""Two. {LONG}"""\n'), ("old", LONG_OLD)):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(docs.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(docs, "DOCS_PACKAGES", [])
    return tmp_path


LONG_OLD = f'"""{LONG}"""\nprint "python 2"\n'


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_documents_come_in_the_same_order_from_any_number_of_processes(
    small_install: Path, num_processes: int
):
    text = read_docs(num_processes)
    assert [document[:4] for document in text.documents] == ["One.", "Two."]
    assert (text.num_files, text.num_unreadable) == (3, 1)
    assert text.licence == "python: PSF-2.0"


def test_files_are_read_and_not_imported(small_install: Path):
    (small_install / "bomb.py").write_text(f'"""Bomb. {LONG}"""\nraise SystemExit(3)\n')
    assert "Bomb" in [document[:4] for document in read_docs().documents]


def test_a_package_names_its_licence():
    assert package_licence("numpy").startswith("BSD-3-Clause")
    assert "MIT" in package_licence("rich")


def test_reading_documentation_loads_neither_torch_nor_numpy():
    code = "import sys, golf.prepare.docs; print({'torch', 'numpy'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
