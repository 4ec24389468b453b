"""A real S3 server on this machine, rclone's, that keeps objects in a folder, and a proxy in front of it that counts
requests and breaks those that a test names."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

BUCKET = "bucket"
#: what a test makes of a request: a name that `Proxy` knows, or None to let it pass
Rule = Callable[[str, str], str | None]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str  # with the query


def rclone() -> str:
    """The program that the extra `dev` installs."""
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("no rclone: install the extra dev")
    return found


@dataclass
class S3Server:
    """The server, which can be killed and come back, with a proxy before it whose address stays."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    rule: Rule = field(default_factory=lambda: _nothing)
    proxy: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Answer at the address of `uri` from now on."""
        self.port = self.port or free_port()
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        words = [rclone(), "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{key},{secret}"]
        words += ["--config", os.devnull, "--vfs-cache-mode", "off", str(self.folder)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError("the S3 server does not come up")

    def kill(self) -> None:
        """SIGKILL: nothing listens any more, and connections break."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def uri(self, path: str) -> str:
        """The address of `path` within the bucket."""
        assert self.proxy is not None
        return f"s3://{BUCKET}/{path}?scheme=http&endpoint_override=127.0.0.1:{self.proxy.server_port}"

    @contextmanager
    def breaking(self, rule: Rule) -> Iterator[None]:
        """Requests inside a block are broken by `rule`."""
        self.rule = rule
        try:
            yield
        finally:
            self.rule = _nothing

    def on_disk(self, path: str) -> Path:
        """Where the server keeps it."""
        return self.folder / BUCKET / path


def _nothing(method: str, path: str) -> None:
    """The rule that breaks no request."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A server with one bucket, for a block, that takes the credentials of the environment."""
    (folder / BUCKET).mkdir(parents=True)
    server = S3Server(folder)
    server.proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    server.proxy.daemon_threads = True
    threading.Thread(target=server.proxy.serve_forever, daemon=True).start()
    server.start()
    try:
        yield server
    finally:
        server.kill()
        server.proxy.shutdown()
        server.proxy.server_close()


def _handler(server: S3Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            with suppress(ConnectionError):  # who asked is gone
                self.serve()

        def serve(self) -> None:
            server.asked.append(Asked(self.command, unquote(self.path)))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            broken = server.rule(self.command, unquote(self.path))
            if broken is None and self.path.partition("?")[0].endswith("/") and self.command in ("PUT", "DELETE"):
                # Arrow's marks of empty folders, objects of no bytes. S3 keeps them; rclone's server, for which they
                # would be folders and files at once, does not.
                self.answer(200, b"")
            elif broken == "denied":
                self.refuse(403, "AccessDenied", "Access Denied")
            elif broken == "no bucket":
                self.refuse(404, "NoSuchBucket", "The specified bucket does not exist")
            elif broken == "cut":
                self.close_connection = True
                self.forward(body[: len(body) // 2], len(body))
            else:
                self.forward(body, len(body))

        def forward(self, body: bytes, length: int) -> None:
            """To the server, the headers as they are, for they are signed; half a body and a hang-up if it is cut."""
            upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
            try:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "connection"):
                        upstream.putheader(name, value)
                upstream.endheaders()
                upstream.send(body)
                if len(body) < length:
                    return
                answer = upstream.getresponse()
                content = answer.read()
            except OSError:
                self.close_connection = True  # as the server's own address would hang up
                return
            finally:
                upstream.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                    self.send_header(name, value)
            told = answer.getheader("Content-Length") or "0"
            self.send_header("Content-Length", told if self.command == "HEAD" else str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def refuse(self, status: int, code: str, message: str) -> None:
            content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            self.answer(status, b"" if self.command == "HEAD" else content)

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
