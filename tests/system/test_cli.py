"""How programs end."""

import pytest

from golf.system.cli import run_program


class TooLarge(ValueError):
    pass


class Halted(Exception):
    pass


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 1, 1, ""),
        (raising(ValueError("width is 3")), 2, "p: width is 3\n"),
        (raising(FileNotFoundError("no such file")), 2, "p: no such file\n"),
        (raising(TooLarge("too large")), 1, "p: too large\n"),
        (raising(Halted("at step 3")), 130, "p: at step 3\n"),
        (raising(KeyboardInterrupt()), 130, "p: goes on\n"),
    ],
)
def test_a_program_ends_with_its_code_and_one_line(work, code, line, capsys):
    assert run_program("p", work, {TooLarge: 1, Halted: 130}, "goes on") == code
    assert capsys.readouterr() == ("", line)


def test_a_fault_of_the_program_comes_through():
    with pytest.raises(ZeroDivisionError):
        run_program("p", raising(ZeroDivisionError()))
