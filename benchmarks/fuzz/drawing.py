"""Draw hostile requests from a seed and a number, as the bytes that go through the socket."""

import base64
import gzip
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.fuzz.footage import damage

Random = random.Random

MAX_FRAMES: Final = 6
WORDS: Final = (
    "", " ", "a", "gate-3", "0", "-1", "1e400", "null", "true", "NaN", "../../etc/passwd", "%2e%2e", "a/b",
    "a\\b", "'--",
    '"', "ünï", "人", "\u202e", "\x00", "\r\nX: y", "=cmd", "${x}", "{{x}}", "<b>", "😀" * 40, "x" * 65, "x" * 300,
    "x" * 70_000, "2026-05-04T09:30:00Z", "2026-05-04T09:30:00", "9999-12-31T23:59:59+14:00", "0001-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
)  # fmt: skip
NUMBERS: Final = (
    "0", "-0", "1", "-1", "3", "2.0", "0.5", "1e3", "1e-400", "1e400", "-1e400", "9" * 400, "2147483648",
    "9223372036854775808",
    "-9223372036854775809", "1.7976931348623157e308", "NaN", "Infinity", "-Infinity", "01", "1.", "+1", "0x10",
)  # fmt: skip
FIELDS: Final = (
    "id", "camera_id", "start_time", "end_time", "metadata", "expires_at", "max_clips", "boxes", "frames", "embedding",
    "embedding_space", "top_k", "min_score", "prior", "min_probability", "filter", "exclude_same_camera", "rerank",
    "dry_run", "camera_ids", "exclude_camera_ids", "after", "before", "__proto__", "colour",
)  # fmt: skip
QUERIES: Final = (
    "enroll",
    "include_embedding",
    "camera_id",
    "after",
    "before",
    "limit",
    "cursor",
    "frame",
    "colour",
    "enroll",
)
HOSTS: Final = ("", "a b", "evil.example", "127.0.0.1:99999", "[::1]", "x" * 5000)
HEAD_BODIES: Final = (
    b"", b"", b"{}", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1\r\n",
    b"5;a=" + b"b" * 20_000 + b"\r\nhello\r\n0\r\n", b"0\r\n" + b"T: x\r\n" * 3000 + b"\r\n",
)  # fmt: skip
PATHS: Final = (
    "/gallery", "/gallery/NAME", "/gallery/NAME/thumbnail", "/audit", "/info", "/metrics", "/livez", "/readyz",
    "/cameras",
    "/openapi.json", "/NAME", "/gallery/", "//gallery", "/gallery/..", "/cases/NAME", "/watchlists/NAME", "/alerts",
)  # fmt: skip
METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "G T",
    "",
)
POSTS: Final = ("/embed", "/embed", "/embed?enroll=false", "/search")


@dataclass(frozen=True)
class Attack:
    """A request as bytes. `complete`: its framing is intact, so that it must be answered."""

    number: int
    kind: str
    data: bytes
    complete: bool = True
    pieces: int = 1
    """In how many pieces, with a pause between, the bytes are sent."""

    @property
    def method(self) -> str:
        """The method, as the reader of the answer needs it."""
        return self.data.partition(b" ")[0].decode("latin-1")


@dataclass(frozen=True)
class Material:
    """Intact files, and what the service says about its model."""

    pictures: Sequence[bytes]
    videos: Sequence[bytes]
    dimension: int
    space: str
    host: str


class Drawing:
    """Draws attacks; the same seed, number and material give the same bytes."""

    def __init__(self, seed: int, material: Material) -> None:
        self._seed, self._material = seed, material
        self._kinds: dict[str, tuple[int, Callable[[Random, int], Attack]]] = {
            "picture": (30, self._draw_pictures),
            "video": (12, self._draw_video),
            "form": (18, self._draw_form),
            "json": (18, self._draw_json),
            "query": (12, self._draw_query),
            "head": (10, self._draw_head),
        }

    def draw(self, number: int) -> Attack:
        """Return attack `number`."""
        source = random.Random(f"{self._seed}/{number}")
        weights = [weight for weight, _ in self._kinds.values()]
        (kind,) = source.choices([*self._kinds], weights)
        return self._kinds[kind][1](source, number)

    def _draw_pictures(self, source: Random, number: int) -> Attack:
        pictures = self._material.pictures
        files = [damage(source, source.choice(pictures), pictures) for _ in range(source.randint(1, MAX_FRAMES))]
        files += [source.choice(pictures[:11]) for _ in range(source.choice((0, 0, 1, 8)))]
        source.shuffle(files)
        fields = _draw_fields(source) if source.random() < 0.2 else {}
        if source.random() < 0.2:
            fields["boxes"] = json.dumps(_draw_boxes(source, len(files)))
        if source.random() < 0.2:
            body = {"frames": [base64.b64encode(file).decode() for file in files], **fields}
            return self._post(source, number, "picture", json.dumps(body).encode(), "application/json")
        parts = [_part("frames", file, f"{index}.jpg") for index, file in enumerate(files)]
        parts += [_part(name, text.encode("utf-8", "surrogatepass")) for name, text in fields.items()]
        return self._post(source, number, "picture", _form(parts), "multipart/form-data; boundary=B")

    def _draw_video(self, source: Random, number: int) -> Attack:
        videos = [*self._material.videos, self._material.pictures[0]]
        parts = [_part("video", damage(source, source.choice(videos), videos), "v.mp4")]
        if source.random() < 0.7:
            parts.append(_part("boxes", json.dumps(_draw_boxes(source, 12)).encode()))
        if source.random() < 0.2:
            parts.append(_part("max_clips", source.choice(NUMBERS).encode()))
        source.shuffle(parts)
        return self._post(source, number, "video", _form(parts), "multipart/form-data; boundary=B")

    def _draw_form(self, source: Random, number: int) -> Attack:
        boundary = source.choice(("B", "", "b" * 70, "b" * 5000, "a b", "--", "B\r\nX: y", "ü", "B;q=1"))
        kind = source.choice(
            (
                f"multipart/form-data; boundary={boundary}",
                f'multipart/form-data; boundary="{boundary}"',
                f"multipart/form-data; boundary={boundary}; boundary=C",
                f"MULTIPART/Form-Data;;boundary*=utf-8''{boundary}",
                f"multipart/mixed; boundary={boundary}",
                f"multipart/form-data; charset=utf-16; boundary={boundary}",
                "multipart/form-data",
                "application/x-www-form-urlencoded",
            )
        )
        if source.random() < 0.5:
            boundary, kind = "B", "multipart/form-data; boundary=B"
        picture = source.choice(self._material.pictures)
        parts = [_part("frames", picture, source.choice(WORDS[:30])) for _ in range(source.randint(0, 4))]
        parts += [_part(name, text.encode("utf-8", "surrogatepass")) for name, text in _draw_fields(source).items()]
        parts += [source.choice(ODD_PARTS)(source) for _ in range(source.randint(0, 3))]
        source.shuffle(parts)
        body = _form(parts, boundary.encode())
        body = source.choice(BODY_CHANGES)(source, body)
        return self._post(source, number, "form", body, kind)

    def _draw_json(self, source: Random, number: int) -> Attack:
        text = source.choice((self._draw_object, self._draw_object, self._draw_object, _draw_deep, _draw_wide))(source)
        data = text.encode("utf-8", "surrogatepass")
        if source.random() < 0.3:
            data = source.choice(
                (
                    b"\xef\xbb\xbf" + data,
                    text.encode("utf-16", "surrogatepass"),
                    data[: source.randrange(len(data) + 1)],
                    data + b"\x00",
                    data + data,
                    data.replace(b'"', b"'"),
                    data.replace(b"a", b"\xff"),
                    b"",
                    b" " * 1000,
                )
            )
        kind = source.choice(
            ("application/json",) * 6
            + ("application/json; charset=latin-1", "text/json", "application/problem+json", "")
        )
        if source.random() < 0.1:
            packed = gzip.compress(data, mtime=0)
            packed = source.choice(
                (packed, packed[:-5], gzip.compress(b" " * 3_000_000, mtime=0), data, packed + packed)
            )
            encoding = source.choice(("gzip", "gzip, gzip", "deflate", "br", "identity", "GZIP", "x" * 100))
            return self._post(source, number, "json", packed, kind, f"Content-Encoding: {encoding}")
        return self._post(source, number, "json", data, kind)

    def _draw_object(self, source: Random) -> str:
        """Return an object with known and unknown fields, some of them of the right form, as JSON."""
        dimension = self._material.dimension
        right: dict[str, Callable[[], str]] = {
            "embedding": lambda: json.dumps(
                [source.uniform(-1, 1) for _ in range(source.choice((dimension, dimension, 1, 2 * dimension)))]
            ),
            "embedding_space": lambda: json.dumps(self._material.space),
            "id": lambda: json.dumps(f"fuzz-{source.randrange(20)}"),
            "filter": lambda: (
                self._draw_object(source) if source.random() < 0.5 else '{"camera_ids": ["a"], "metadata": {"k": 1}}'
            ),
            "frames": lambda: json.dumps(
                [base64.b64encode(source.choice(self._material.pictures)).decode() for _ in range(3)]
            ),
            "boxes": lambda: json.dumps(_draw_boxes(source, 4)),
            "top_k": lambda: str(source.randint(1, 1000)),
            "metadata": lambda: f'{{"k": {_draw_value(source, 2)}}}',
        }
        names = source.sample(FIELDS, source.randint(0, 6))
        if source.random() < 0.1:
            names += names
        values = [
            right[name]() if name in right and source.random() < 0.7 else _draw_value(source, 3) for name in names
        ]
        return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in zip(names, values, strict=True)) + "}"

    def _draw_query(self, source: Random, number: int) -> Attack:
        name = _percent(source, source.choice((*WORDS, f"fuzz-{source.randrange(20)}", f"fuzz-{source.randrange(20)}")))
        path = source.choice((*PATHS, *PATHS[:2])).replace("NAME", name)
        pairs = [
            f"{_percent(source, source.choice(QUERIES))}={_percent(source, source.choice((*WORDS, *NUMBERS)))}"
            for _ in range(source.choice((0, 1, 1, 2, 5)))
        ]
        if source.random() < 0.02:
            pairs *= 2000
        target = path + ("?" + source.choice(("&", ";", "&&")).join(pairs) if pairs else "")
        method = source.choice(("GET",) * 8 + ("HEAD", "DELETE", "PUT", "PATCH", "POST", "OPTIONS"))
        body = self._draw_object(source).encode("utf-8", "surrogatepass") if method in {"PUT", "PATCH", "POST"} else b""
        head = f"{method} {target} HTTP/1.1\r\nHost: {self._material.host}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return Attack(number, "query", f"{head}\r\n".encode("utf-8", "surrogatepass") + body)

    def _draw_head(self, source: Random, number: int) -> Attack:
        """Return a request whose head or framing is odd or broken."""
        host = self._material.host
        target = source.choice(
            (
                "/livez",
                "/gallery",
                "/embed",
                "*",
                f"http://{host}/livez",
                "http://[::1/",
                "livez",
                "/a b",
                "/\xff",
                "/?" + "q" * 70_000,
                "",
            )
        )
        version = source.choice(
            ("HTTP/1.1",) * 6 + ("HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.2", "HTTP/1", "http/1.1", "HTTX/1.1", "")
        )
        lines = [f"Host: {source.choice((host, host, host, host, *HOSTS))}"]
        names = source.choices([*HEADERS], k=source.randint(0, 4))
        lines += [f"{name}: {source.choice(HEADERS[name])}" for name in names]
        if source.random() < 0.05:
            lines.append("no colon")
        if source.random() < 0.1:
            lines += [
                f"X-{index}: {'y' * source.choice((1, 1, 100))}"
                for index in range(source.choice((99, 101, 1000, 5000)))
            ]
        end = source.choice(("\r\n",) * 6 + ("\n", "\r", "\r\n "))
        head = end.join([f"{source.choice(METHODS)} {target} {version}", *lines, "", ""])
        body = source.choice((*HEAD_BODIES, source.randbytes(300)))
        data = head.encode("utf-8", "replace") + body
        if source.random() < 0.05:
            data = source.randbytes(source.choice((1, 30, 3000)))
        if source.random() < 0.2:
            data = data[: source.randrange(1, len(data) + 1)]
        return Attack(number, "head", data, complete=False, pieces=source.choice((1, 1, 1, 3)))

    def _post(self, source: Random, number: int, kind: str, body: bytes, content_type: str, *lines: str) -> Attack:
        target = source.choice(POSTS)
        if source.random() < 0.15:
            target = source.choice(
                (
                    "/gallery/erase",
                    f"/gallery/fuzz-{source.randrange(20)}",
                    "/gallery/a%2Fb",
                    "/search?x=1",
                    "/embed?include_embedding=true",
                )
            )
        method = "PUT" if target.startswith("/gallery/") and "erase" not in target else "POST"
        head = [f"{method} {target} HTTP/1.1", f"Host: {self._material.host}", f"Content-Type: {content_type}", *lines]
        complete = "\n" not in content_type
        if source.random() < 0.15:
            size = source.choice((1, 7, 4096, 100_000))
            chunks = [body[at : at + size] for at in range(0, len(body), size)][:400]
            body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
            head.append("Transfer-Encoding: chunked")
        elif source.random() < 0.03:
            head.append(f"Content-Length: {source.choice((len(body) + 10, len(body) // 2, -1, 10**30, 'x', ''))}")
            complete = False
        else:
            head.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*head, "", ""]).encode("utf-8", "surrogatepass") + body
        return Attack(number, kind, data, complete, source.choice((1, 1, 1, 1, 5)))


def _part(name: str, content: bytes, file: str | None = None) -> bytes:
    given = "" if file is None else f'; filename="{file}"\r\nContent-Type: application/octet-stream'
    return f'Content-Disposition: form-data; name="{name}"{given}\r\n\r\n'.encode("utf-8", "surrogatepass") + content


def _form(parts: Sequence[bytes], boundary: bytes = b"B") -> bytes:
    return b"".join(b"--%s\r\n%s\r\n" % (boundary, part) for part in parts) + b"--%s--\r\n" % boundary


def _draw_fields(source: Random) -> dict[str, str]:
    return {
        source.choice(FIELDS): source.choice((*WORDS, *NUMBERS)) if source.random() < 0.6 else _draw_value(source, 2)
        for _ in range(source.randint(0, 4))
    }


def _draw_boxes(source: Random, frames: int) -> list[list[float]]:
    numbers = (0, 1, 8, 30, 40, 96, -5, 0.5, 1e9, 2**31, 2**63)
    usual: list[list[float]] = [[index % max(frames, 1), 5, 5, 40, 80] for index in range(source.randint(1, 8))]
    odd = [
        [source.choice(numbers) for _ in range(source.choice((5, 5, 5, 4)))] for _ in range(source.choice((0, 0, 1)))
    ]
    return usual + odd


def _draw_value(source: Random, depth: int) -> str:
    """Return JSON, or what is nearly JSON."""
    kind = source.randrange(8 if depth else 5)
    if kind < 2:
        return source.choice(NUMBERS)
    if kind < 4:
        word = source.choice((*WORDS, "\\ud800", "\\udfff\\ud800", "\\u0000", "\ud800"))
        return f'"{word}"' if word.startswith("\\u") else json.dumps(word, ensure_ascii=source.random() < 0.5)
    if kind == 4:
        return source.choice(("true", "false", "null", "undefined", "{}", "[]"))
    if kind < 6:
        return "[" + ", ".join(_draw_value(source, depth - 1) for _ in range(source.choice((1, 2, 5)))) + "]"
    return (
        "{"
        + ", ".join(
            f'"{key}": {_draw_value(source, depth - 1)}' for key in source.choices("abab", k=source.choice((1, 3)))
        )
        + "}"
    )


def _draw_deep(source: Random) -> str:
    opening, closing = source.choice((("[", "]"), ('{"a":', "}"), ('{"filter":', "}"), ('{"metadata":', "}")))
    depth = source.choice((50, 129, 1000, 100_000))
    return opening * depth + "1" + source.choice((closing * depth, ""))


def _draw_wide(source: Random) -> str:
    count = source.choice((1000, 20_000, 100_000))
    numbered = ", ".join(f'"u{index}": {index}' for index in range(count))
    return source.choice(
        (
            '{"embedding": [' + ", ".join(["0.1"] * count) + "]}",
            '{"boxes": [' + ", ".join(["[0,0,0,9,9]"] * count) + "]}",
            '{"frames": [' + ", ".join(['""'] * count) + "]}",
            '{"metadata": {' + numbered + "}}",
            "{" + numbered + "}",
            '{"' + "x" * count + '": 1}',
            '{"top_k": ' + "9" * count + "}",
        )
    )


def _percent(source: Random, text: str) -> str:
    """Return a text for a target: encoded in full, in part, twice, or wrongly."""
    data = text.encode("utf-8", "surrogatepass")[: source.choice((100, 100, 100, 3000))]
    full = "".join(f"%{byte:02X}" for byte in data)
    partly = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02x}" for byte in data)
    return source.choice(
        (full, partly, partly, partly, partly.replace("%", "%25"), partly + "%", partly + "%zz", partly + "%ff")
    )


ODD_PARTS: Final[tuple[Callable[[Random], bytes], ...]] = (
    lambda _: b"",
    lambda _: b"\r\n",
    lambda _: b"Content-Disposition: form-data\r\n\r\nx",
    lambda _: b"Content-Disposition: attachment; name=id\r\n\r\nx",
    lambda _: b"Content-Disposition: form-data; name*=utf-8''id\r\n\r\nx",
    lambda _: b'Content-Disposition: form-data; name="\xff\xfe"\r\n\r\nx',
    lambda _: b'Content-Disposition: form-data; name="id"\r\nContent-Transfer-Encoding: base64\r\n\r\neA==',
    lambda _: b'Content-Disposition: form-data; name="id"\r\nContent-Type: text/plain; charset=utf-16\r\n\r\n\xff\xfe',
    lambda source: b"X: " + b"y" * source.choice((10, 9000, 300_000)) + b"\r\n\r\nz",
    lambda source: b"X: y\r\n" * source.choice((10, 5000)) + b"\r\nz",
    lambda source: source.randbytes(200),
    lambda _: b'Content-Disposition: form-data; name="frames"; filename="a\r\n\r\nx',
    lambda _: b'Content-Disposition: form-data; name="frames"\r\n : \r\n\r\nx',
    lambda _: _part("frames", b"--C\r\n\r\nx\r\n--C--", 'a"\r\nContent-Type: multipart/mixed; boundary=C'),
    lambda source: b'Content-Disposition: form-data; name="metadata"\r\n\r\n' + _draw_deep(source).encode(),
    lambda source: b'Content-Disposition: form-data; name="' + b"n" * source.choice((100, 70_000)) + b'"\r\n\r\nx',
)  # fmt: skip
BODY_CHANGES: Final[tuple[Callable[[Random, bytes], bytes], ...]] = (
    lambda _, body: body,
    lambda _, body: body,
    lambda source, body: body[: source.randrange(len(body) + 1)],
    lambda _, body: body.replace(b"\r\n", b"\n"),
    lambda _, body: body[:-4],
    lambda _, body: b"preamble\r\n" * 100 + body + b"epilogue" * 1000,
    lambda _, body: body.replace(b"--B", b"--b"),
    lambda _, body: body + body,
    lambda source, body: body[(cut := source.randrange(len(body) + 1)) :] + body[:cut],
    lambda source, body: bytes(byte ^ (source.random() < 0.01) for byte in body[:5000]) + body[5000:],
    lambda source, _: b"--B\r\n" * source.choice((3, 3000)),
)  # fmt: skip
HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "Content-Length": ("0", "2", "5", "-1", "+2", "2, 2", "0x2", "99999999999999999999", " ", "1_0"),
    "Transfer-Encoding": (
        "chunked",
        "Chunked",
        "gzip, chunked",
        "chunked, chunked",
        "identity",
        "xchunked",
        " chunked",
    ),
    "Connection": ("close", "keep-alive", "upgrade", "close, close", "TE"),
    "Upgrade": (
        "websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
        "h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x",
    ),
    "Expect": ("100-continue", "200-ok", ""),
    "Authorization": ("Bearer", "Bearer " + "k" * 5000, "Basic eDp5", "Bearer ü", "Bearer \x01"),
    "X-API-Key": ("", "k" * 20, "ü"),
    "Origin": ("null", "http://evil.example", "http://127.0.0.1", "x" * 5000),
    "X-Forwarded-Prefix": ("/a", "//evil.example", "/" + "x" * 5000, "a\tb", "/../.."),
    "X-Forwarded-For": ("127.0.0.1", "::1", ", " * 1000),
    "Accept-Encoding": ("gzip", "*;q=0", "x" * 3000),
    "Range": ("bytes=0-0", "bytes=-1", "bytes=9-1", "bytes=" + "0-0," * 500),
    "Cookie": ("a=b; ", "a=b; " * 5000),
    "Host": ("second.example",),
    "Content-Type": ("application/json", "multipart/form-data"),
    " folded": ("x",),
    "": ("no name",),
    "N\x00ul": ("x",),
    "Nul": ("\x00\x01",),
    "N" * 100: ("x",),
    "N" * 70_000: ("x",),
    "Long": ("v" * 5000, "v" * 70_000, "v" * 300_000),
}
"""Header lines that are odd, broken, too long or in conflict with others."""
