"""What a process says of the others."""

import threading
import time

from golf.system import distributed


def test_a_process_that_waits_long_says_so(monkeypatch, capsys):
    monkeypatch.setattr(distributed, "SAY_EVERY_SECONDS", 0.05)
    ended = threading.Event()
    watch = threading.Thread(target=distributed._say_waiting, args=(1, ended))
    watch.start()
    try:
        time.sleep(0.2)
        assert capsys.readouterr().err == ""
        with distributed._named_failure():
            time.sleep(0.3)
        said = capsys.readouterr().err
        time.sleep(0.2)
        assert capsys.readouterr().err == "", "nothing is waited for any more"
    finally:
        ended.set()
        watch.join()
    assert "process 1 has waited" in said and "60 minutes" in said
