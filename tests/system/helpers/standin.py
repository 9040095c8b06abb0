"""Stand in for `chats` in tests of what starts it: answer 200 on the port with the process's name."""

import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if "stream" in self.path else "text/plain")
        self.end_headers()
        self.wfile.write(f"{sys.argv[1]} answers {self.path}\n".encode())
        if "stream" in self.path:
            self.wfile.flush()
            signal.sigwait([signal.SIGTERM])

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__" and "--port" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
