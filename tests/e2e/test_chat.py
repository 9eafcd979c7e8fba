"""galernectl chat as a person at a terminal and a script use it."""
import json
import os
import re
import signal
import stat
import subprocess
import threading
import time

import grpc
import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import ROOT, build_dir, wait_until
from scripted import CONTEXT_TOKENS, Scripted, last
from terminal import Terminal
from test_galernectl import failed, good, run, stopped_worker

UP, LEFT, HOME, END, BACKSPACE = "\x1b[A", "\x1b[D", "\x01", "\x05", "\x7f"
CTRL_C, CTRL_D, CTRL_R, CTRL_W = "\x03", "\x04", "\x12", "\x17"


@pytest.fixture
def server():
    made = Scripted()
    yield made
    made.close()


@pytest.fixture
def chat():
    """chat(server, words...): a session on a terminal, at its first prompt."""
    made = []

    def make(server, *words, **how) -> Terminal:
        env = {"GALERNE_SOCKET": str(server.run_dir), **how.pop("env", {})}
        one = Terminal([build_dir() / "admin/galernectl", "chat", *words], env=env, **how)
        made.append(one)
        one.wait("> ")
        return one

    yield make
    for one in made:
        one.close()


def leave(one: Terminal) -> None:
    one.type(CTRL_D)
    assert one.end() == 0
    assert one.is_as_before()


def ask(one: Terminal, line: str, answer: str) -> None:
    one.type(line + "\r")
    one.wait(answer)
    one.wait("\n> ")


# ---- a conversation ----

def test_every_question_goes_with_what_was_said(server, chat):
    one = chat(server, "--system", "Be short.", "-n", "20", "-t", "0.5", "--seed", "3")
    server.answers = [[" Hello,", " you."]]
    ask(one, "Hi", "\nHello, you.")  # the white space in front is no part of it
    ask(one, "And now?", "echo: And now?")
    assert server.turns() == [("s", "Be short."), ("u", "Hi"), ("a", "Hello, you."),
                              ("u", "And now?")]
    request = server.requests[-1]
    assert (request.model, request.max_tokens, request.sampling.seed) == ("one", 20, 3)
    ask(one, "/reset", "new conversation")
    ask(one, "Again", "echo: Again")
    assert server.turns() == [("s", "Be short."), ("u", "Again")]
    ask(one, "/system Be long.", "from the next question on")
    ask(one, "/system", "no system turn")
    ask(one, "More", "echo: More")
    assert server.turns() == [("u", "Again"), ("a", "echo: Again"), ("u", "More")]
    leave(one)


def test_text_is_shown_as_it_comes(server, chat):
    one, gate = chat(server), threading.Event()
    server.answers = [["first", gate, " second"]]
    one.type("go\r")
    one.wait("first")
    assert "second" not in one.text()
    gate.set()
    one.wait(" second")
    one.wait("\n> ")
    leave(one)


def test_the_demo_answers_a_follow_up(fresh, chat):
    daemon = fresh(models={"demo": ROOT / "model/demo/galerne-demo"})
    one = chat(daemon, "demo")
    ask(one, "What is the currency of Denmark?", "The currency of Denmark is the krone.")
    ask(one, "And its capital?", "The capital of Denmark is Copenhagen.")
    leave(one)
    assert daemon.stop() == 0


# ---- Ctrl-C and the end ----

def test_ctrl_c_ends_an_answer_and_not_the_session(server, chat):
    one = chat(server)
    server.answers = [["half an answer", threading.Event()]]
    one.type("tell me\r")
    one.wait("half an answer")
    one.type(CTRL_C)
    one.wait("what has come is kept")
    one.wait("\n> ")
    assert server.cancelled.wait(5)
    ask(one, "go on", "echo: go on")
    assert server.turns() == [("u", "tell me"), ("a", "half an answer"), ("u", "go on")]

    server.cancelled.clear()
    server.answers = [[threading.Event()]]
    one.type("nothing yet\r")
    wait_until("it is asked", lambda: len(server.requests) == 3)
    one.type(CTRL_C)
    one.wait("the question is not kept")
    one.wait("\n> ")
    assert server.cancelled.wait(5)
    ask(one, "well", "echo: well")
    assert ("u", "nothing yet") not in server.turns()
    leave(one)


def test_ctrl_c_gives_a_line_up(server, chat):
    one = chat(server)
    for _ in range(4):
        one.type("half a li")
        one.wait("half a li")
        one.type(CTRL_C)
        one.wait("\n> ")
    ask(one, "a line", "echo: a line")
    one.type("two lines\\\r")
    one.wait("\n. ")
    one.type(CTRL_C)
    one.wait("\n> ")
    ask(one, "one line", "echo: one line")
    assert server.turns() == [("u", "a line"), ("a", "echo: a line"), ("u", "one line")]
    leave(one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(server, chat, number):
    one = chat(server)
    one.type("half")
    one.wait("half")
    assert not one.is_as_before()  # else this test could not fail
    one.signal(number)
    assert one.end() == -number
    assert one.is_as_before()


def test_stop_and_continue(server, chat):
    one = chat(server)
    one.type("before ")
    one.wait("before ")
    one.signal(signal.SIGSTOP)
    time.sleep(0.1)
    one.signal(signal.SIGCONT)
    ask(one, "and after", "echo: before and after")
    leave(one)


def test_the_end_of_the_terminal_is_the_end(server):
    one = Terminal([build_dir() / "admin/galernectl", "chat"],
                   env={"GALERNE_SOCKET": str(server.run_dir)})
    one.wait("> ")
    os.close(one.there)
    os.close(one.here)
    assert one.process.wait(10) in (0, -signal.SIGHUP)


# ---- editing ----

def test_editing(server, chat):
    one = chat(server)
    ask(one, "word" + LEFT * 2 + "-" + HOME + ">", "echo: >wo-rd")
    ask(one, "one two three" + CTRL_W + "four", "echo: one two four")
    ask(one, UP + "!", "echo: one two four!")
    ask(one, UP * 3 + "?", "echo: >wo-rd?")
    ask(one, CTRL_R + "two" + END + " again", "echo: one two four! again")
    assert server.turns()[-1] == ("u", "one two four! again")
    leave(one)


def test_utf_8(server, chat):
    one = chat(server, env={"LC_ALL": "C"})  # whatever the locale is called
    ask(one, "Žlutý kůň, 日本語 🐎é" + BACKSPACE + "e", "echo: Žlutý kůň, 日本語 🐎e")
    ask(one, "ñ" + LEFT + "ß", "echo: ßñ")
    assert server.turns()[0] == ("u", "Žlutý kůň, 日本語 🐎e")
    one.type("a\udcffb\r".encode(errors="surrogateescape").decode("latin1"))  # as it happens
    one.wait("echo: a")
    one.wait("\n> ")
    leave(one)


def test_bytes_that_are_no_utf_8(server, chat):
    one = chat(server)
    os.write(one.here, b"a\xff\xfeb\r")
    one.wait("echo: ")
    one.wait("\n> ")
    assert server.turns()[0] == ("u", "a\ufffd\ufffdb")
    leave(one)


@pytest.mark.parametrize("sent, read", [(b"caf\xe9\r", "caf\ufffd"), (b"\xe2\x82A\xf0\x9f\xc3\r",
                                                                   "\ufffdA\ufffd\ufffd")])
def test_a_broken_character_swallows_no_key(server, chat, sent, read):
    one = chat(server)
    os.write(one.here, sent)
    one.wait("echo: ")
    one.wait("\n> ")
    assert server.turns()[0] == ("u", read)
    leave(one)


def test_a_long_line_and_another_size_of_the_terminal(server, chat):
    one = chat(server)
    line = " ".join(f"word{i}" for i in range(900))
    assert len(line) > 6000
    one.type(line[:3000])
    one.wait(line[2980:3000].split()[-1])
    for rows, columns in ((10, 33), (50, 200), (3, 5), (24, 80)):
        one.resize(rows, columns)
        time.sleep(0.05)
    one.type(line[3000:] + "\r")
    one.wait("echo: word0", 30)
    wait_until("it was asked", lambda: server.requests)
    assert server.turns() == [("u", line)]
    one.wait("\n> ")
    ask(one, "short", "echo: short")
    leave(one)


@pytest.mark.parametrize("term", ["dumb", "vt100", "no-such-terminal"])
def test_poor_terminals(server, chat, term):
    one = chat(server, env={"TERM": term})
    ask(one, "hello", "echo: hello")
    leave(one)


def test_lines_that_go_on(server, chat):
    one = chat(server)
    one.type("first\\\r")
    one.wait("\n. ")
    one.type("second\\\r")
    one.wait("\n. ")
    ask(one, "third", "echo: first")
    assert server.turns() == [("u", "first\nsecond\nthird")]
    leave(one)


# ---- what a model writes ----

def test_escape_sequences_are_harmless(server, chat):
    one = chat(server)
    evil = "a\x1b]0;title\x07b\x1b[2Jc\x9b31md\x08\x08e\rf\u202eg"
    server.answers = [[evil]]
    one.type("go\r")
    one.wait("g\r\n")
    one.wait("> ")
    # The prompt is drawn anew: look at what lies before.
    answer = one.shown[one.shown.index(b"\na") + 1:]
    answer = answer[:answer.index(b"g\r\n") + 1]
    assert answer == rb"a\x1b]0;title\x07b\x1b[2Jc\u009b31md\x08\x08e\x0df\u202eg"
    ask(one, "again", "echo: again")
    assert server.turns()[1] == ("a", evil)  # the model gets its own words back
    leave(one)


def test_an_answer_that_is_not_whole_says_so(server, chat):
    one = chat(server, "-n", "5")
    server.answers = [["cut", last(pb.FINISH_REASON_LENGTH, 10, 5)],
                      ["full", last(pb.FINISH_REASON_LENGTH, CONTEXT_TOKENS - 3, 3)],
                      ["bye", last(pb.FINISH_REASON_CANCELLED)]]
    ask(one, "a", "5 tokens, as --max-tokens says")
    ask(one, "b", f"the context of {CONTEXT_TOKENS} tokens is full")
    ask(one, "c", "the daemon is stopping")
    ask(one, "d", "echo: d")
    assert len(server.turns()) == 7  # all of them went along
    leave(one)


# ---- what goes wrong ----

def test_errors_keep_the_session(server, chat):
    one = chat(server)
    ask(one, "first", "echo: first")
    server.answers = [["some text", (grpc.StatusCode.INTERNAL, "broken\x1b[2J")],
                      [(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")]]
    one.type("second\r")
    one.wait("some text\r\n")
    assert r"broken\x1b[2J (INTERNAL)" in one.wait("the question is not kept")
    one.wait("\n> ")
    one.type("third\r")
    one.wait("the queue is full (RESOURCE_EXHAUSTED)")
    one.wait("\n> ")
    ask(one, "fourth", "echo: fourth")
    assert server.turns() == [("u", "first"), ("a", "echo: first"), ("u", "fourth")]
    leave(one)


def test_the_server_goes_away_and_comes_back(server, chat):
    one = chat(server)
    server.answers = [["half", threading.Event()]]
    one.type("one\r")
    one.wait("half")
    server.stop()
    one.wait("(UNAVAILABLE)")
    one.wait("\n> ")
    one.type("two\r")
    one.wait("galernectl: ")
    one.wait("\n> ")
    server.start()
    ask(one, "three", "echo: three")
    assert server.turns() == [("u", "three")]
    leave(one)


def test_a_killed_daemon(fresh, chat):
    daemon = fresh(models={"demo": ROOT / "model/demo/galerne-demo"})
    one = chat(daemon)
    worker = daemon.model_status("demo").worker_pid
    os.kill(worker, signal.SIGSTOP)
    try:
        one.type("What is the capital of Malta?\r")
        wait_until("it runs", lambda: daemon.model_status("demo").requests_running == 1)
        daemon.process.kill()
        daemon.process.wait()
        one.wait("(UNAVAILABLE)")
        one.wait("\n> ")
    finally:
        if os.path.exists(f"/proc/{worker}"):
            os.kill(worker, signal.SIGCONT)
    daemon.log_path.unlink()
    daemon.start()
    ask(one, "What is the capital of Malta?", "The capital of Malta is Valletta.")
    leave(one)
    assert daemon.stop() == 0


def test_a_conversation_too_long_for_the_model(fresh, chat):
    """It is refused, with a way out; nothing is left out behind the user's back."""
    daemon = fresh(models={"demo": ROOT / "model/demo/galerne-demo"},
                   model_settings={"context_tokens": 128})
    one = chat(daemon)
    asked = 0
    while asked < 30:
        one.type("What is the capital of Slovenia?\r")
        one.wait("\n> ", 20)
        shown = one.shown.decode(errors="replace")
        asked += 1
        if "(INVALID_ARGUMENT)" in shown:
            break
    assert asked > 2 and "context of" in shown and "/reset begins a new one" in shown
    one.type("/reset\r")
    one.wait("new conversation")
    one.wait("\n> ")
    ask(one, "What is the capital of Slovenia?", "The capital of Slovenia is Ljubljana.")
    leave(one)
    assert daemon.stop() == 0


# ---- lines for the session ----

def test_help_and_what_is_not_known(server, chat):
    one = chat(server)
    one.type("/help\r")
    text = one.wait("Ctrl-R")
    assert all(word in text for word in ("/reset", "/system", "/save", "/exit"))
    one.wait("\n> ")
    ask(one, "/rest", "did you mean /reset?")
    ask(one, "/usr/bin", "there is no /usr/bin")
    ask(one, "//usr/bin", "echo: /usr/bin")
    assert server.turns() == [("u", "/usr/bin")]
    ask(one, "/reset it", "expected nothing behind it")
    one.type("  \r")
    one.wait("\n> ")
    assert len(server.requests) == 1
    one.type("/exit\r")
    assert one.end() == 0


def test_save(server, chat, tmp_path):
    one = chat(server, "--system", "Be “short”.")
    ask(one, "Hi", "echo: Hi")
    path = tmp_path / "a talk.json"
    ask(one, f"/save {path}", "2 turns saved")
    assert json.loads(path.read_text()) == [
        {"role": "system", "content": "Be “short”."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "echo: Hi"}]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ask(one, f"/save {path}", "is there already")
    ask(one, f"/save {tmp_path}/none/x", "No such file")
    ask(one, "/save", "expected the name of a new file")
    if os.path.exists("/dev/full"):
        ask(one, "/save /dev/full", "is there already")
    leave(one)


# ---- without a terminal ----

def test_lines_from_a_pipe(server):
    done = run(server, "chat", "one", stdin="Hi\n\n/system Be short.\n//x\\\ny\nlast")
    assert good(done) == "echo: Hi\necho: /x\ny\necho: last\n"  # no prompt, no talk
    assert server.turns() == [("s", "Be short."), ("u", "Hi"), ("a", "echo: Hi"), ("u", "/x\ny"),
                              ("a", "echo: /x\ny"), ("u", "last")]
    assert good(run(server, "chat", stdin="")) == ""
    lines = good(run(server, "chat", "--json", stdin="a\nb\n")).splitlines()
    texts = [c["text"] for line in lines for c in json.loads(line)["choices"]]
    assert "".join(texts) == "echo: aecho: b"


def test_statistics(server):
    done = run(server, "chat", "--stats", stdin="a\nb\n")
    assert done.returncode == 0 and done.stdout == "echo: a\necho: b\n"
    assert len(re.findall(r"time to first token .* prompt 10 tokens", done.stderr)) == 2


def test_a_pipe_gets_the_code_of_the_latest_failure(server):
    server.answers = [[(grpc.StatusCode.PERMISSION_DENIED, "no")],
                      [(grpc.StatusCode.UNAVAILABLE, "away")], ["good"]]
    done = run(server, "chat", stdin="a\nb\nc\n")
    assert (done.returncode, done.stdout) == (7, "good\n")
    assert "no (PERMISSION_DENIED)" in done.stderr and "away (UNAVAILABLE)" in done.stderr
    assert server.turns() == [("u", "c")]


def test_bytes_that_cannot_be_sent(server):
    done = run(server, "chat", stdin="a\0b\nc\n")
    assert (done.returncode, done.stdout) == (1, "echo: c\n") and "zero byte" in done.stderr
    done = run(server, "chat", stdin="x" * (17 << 20) + "\nc\n")
    assert (done.returncode, done.stdout) == (1, "echo: c\n") and "16 MiB" in done.stderr


def test_the_daemon_refuses_what_is_no_utf_8(fresh):
    daemon = fresh(models={"demo": ROOT / "model/demo/galerne-demo"})
    done = run(daemon, "chat", stdin="a\udcff\nWhat is the capital of Italy?\n",
               errors="surrogateescape")
    assert (done.returncode, done.stdout) == (1, "The capital of Italy is Rome.\n")
    assert "UTF-8" in done.stderr
    assert daemon.stop() == 0


def test_an_interrupted_pipe_ends(server):
    server.answers = [["half", threading.Event()]]
    process = subprocess.Popen([build_dir() / "admin/galernectl", "chat"], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE,
                               env=dict(os.environ, GALERNE_SOCKET=str(server.run_dir)))
    process.stdin.write("go\nmore\n")
    process.stdin.flush()
    wait_until("it is asked", lambda: server.requests)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130 and "interrupted" in err
    assert len(server.requests) == 1 and out in ("half\n", "")


def test_output_cannot_be_written(server):
    command = f"printf 'a\\nb\\n' | {build_dir() / 'admin/galernectl'} chat > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30,
                          env=dict(os.environ, GALERNE_SOCKET=str(server.run_dir)))
    assert done.returncode == 1 and "standard output cannot be written" in done.stderr
    assert len(server.requests) == 1


# ---- it does not begin ----

def test_no_session_without_a_model_that_can_chat(daemon, server, tmp_path):
    failed(run(server, "chat", "nope", stdin="x"), 5, "NOT_FOUND", "nope")
    failed(run(server, "chat", "a", "b", stdin="x"), 64, "expected one model")
    failed(run(server, "chat", "a", "-m", "b", stdin="x"), 64, "expected one model")
    failed(run(server, "chat", "--logit-bias", "7", stdin="x"), 64, "ID=VALUE")
    failed(run(server, "chat", "--ids", stdin="x"), 64, "--ids")  # generate's alone
    failed(run(daemon, "chat", stdin="x"), 64, "more than one: tiny, mix")
    failed(run(daemon, "chat", "tiny", stdin="x"), 6, "tiny cannot chat", "none")
    failed(run(None, "chat", "--socket", tmp_path, stdin="x"), 7, "galerne.sock")
    assert not server.requests


def test_the_time_of_one_answer(fresh):
    daemon = fresh(models={"tiny": ROOT / "model/demo/galerne-demo"})
    with stopped_worker(daemon):
        done = run(daemon, "chat", "--timeout", "0.5", stdin="hello\n")
    failed(done, 8, "DEADLINE_EXCEEDED")
    assert daemon.stop() == 0
