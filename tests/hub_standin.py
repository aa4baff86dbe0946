"""A small local server that answers like the Hugging Face hub, and tiny pipelines for it to serve.

    with HubStandin(tmp_path / "repositories") as hub:
        tiny_ddpm(hub.folder("google/ddpm-cifar10-32"))
        subprocess.run([sys.executable, "-c", SCRIPT], env=hub.environment(home=tmp_path / "home"))

A repository is a folder `org/name` below the root; whatever lies there is served, and its commit is a hash of it.
The server needs the standard library only. `faults` maps a repository id, `id/file`, or "" (everything) to one of
`FAULTS` and may be changed while the server runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = {".bin", ".safetensors"}  # by git LFS on the hub, so announced by sha256
FAULTS = {
    "missing": "a file that is listed but not there, or a repository that is not there",
    "cut": "the connection ends in the middle of the file",
    "wrong": "other bytes than announced, of the announced size",
    "short": "fewer bytes than announced by the hub, in a complete answer",
    "hang": "the request is taken and never answered",
    "page": "a log-in page in place of every answer",
    "busy": "429, too many requests",
}


class HubStandin(ThreadingHTTPServer):
    """Serves the repositories below `root` on a free port of 127.0.0.1 while entered."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.faults: dict[str, str] = {}
        self.requests: list[str] = []  # such as "GET /org/name/resolve/main/config.json", in order
        self.released = threading.Event()

    def __enter__(self) -> HubStandin:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *details: object) -> None:
        self.released.set()  # lets hanging answers go
        self.shutdown()
        self.server_close()

    def folder(self, repo_id: str) -> Path:
        """The folder of a repository, made if need be."""
        folder = self.root / repo_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def downloads(self, repo_id: str) -> list[str]:
        """The weight files of a repository that were asked for by GET, in order."""
        start = f"GET /{repo_id}/resolve/"
        return [Path(line).name for line in self.requests if line.startswith(start) and Path(line).suffix in LARGE]

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Variables for a Python that takes this server for the hub and keeps its cache in `home`."""
        apart = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "COURSE_BLOCK")
        environment = {key: value for key, value in os.environ.items() if not key.startswith(apart)}
        environment |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return environment | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | more


class _Handler(BaseHTTPRequestHandler):
    server: HubStandin
    protocol_version = "HTTP/1.1"

    def log_message(self, *details: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} /{path}")
        parts = path.removeprefix("api/models/").split("/")
        repo_id, action, file = "/".join(parts[:2]), (parts[2:3] or [""])[0], "/".join(parts[4:])
        faults = self.server.faults
        fault = faults.get(f"{repo_id}/{file}") or (faults.get(repo_id) if not file else None) or faults.get("")
        folder = self.server.root / repo_id
        if fault == "hang":
            self.server.released.wait()
            self.close_connection = True
        elif fault == "page":
            self.answer(b"<html>Please log in</html>", "text/html")
        elif fault == "busy":
            self.refuse(429, "", "Too many requests")
        elif not folder.is_dir() or (not file and fault == "missing"):
            self.refuse(404, "RepoNotFound", "Repository not found")
        elif action == "resolve":
            self.resolve(folder, file, fault)
        else:
            listing = describe(folder)
            info = {"id": repo_id, "sha": commit(listing), "siblings": [{"rfilename": f["path"]} for f in listing]}
            self.answer(json.dumps(listing if action == "tree" else info).encode())

    def resolve(self, folder: Path, file: str, fault: str | None) -> None:
        listing = describe(folder)
        entry = next((entry for entry in listing if entry["path"] == file), None)
        if entry is None or fault == "missing":
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = (folder / file).read_bytes()
        etag, size = entry.get("lfs", {}).get("oid", entry["oid"]), str(len(content))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit(listing)}
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": size} if "lfs" in entry else {}
        if self.command == "GET" and fault == "wrong":
            content = content[:-64] + bytes(255 - byte for byte in content[-64:])
        if self.command == "GET" and fault == "short":
            content = content[:-64]
        self.answer(content, "application/octet-stream", headers, send=len(content) // 2 if fault == "cut" else None)

    def answer(
        self, body: bytes, kind: str = "application/json", headers: Mapping[str, str] | None = None, *,
        status: int = 200, send: int | None = None,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):  # the client may give up
                self.wfile.write(body[:send])
            self.close_connection = self.close_connection or send is not None

    def refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.answer(body, headers={"X-Error-Code": code, "X-Error-Message": message}, status=status)


def describe(folder: Path) -> list[dict]:
    """The files of a repository as the hub's tree route lists them."""
    listing = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path.relative_to(folder).as_posix(), "size": len(content), "oid": git}
        if path.suffix in LARGE:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        listing.append(entry)
    return listing


def commit(listing: list[dict]) -> str:
    return hashlib.sha1(json.dumps(listing).encode()).hexdigest()


# --- tiny pipelines -----------------------------------------------------------------------------------------


def tiny_ddpm(folder: Path, seed: int = 0) -> Path:
    """An unconditional 3 x 32 x 32 DDPM of random weights, laid out like google/ddpm-cifar10-32.

    That repository is older than subfolders: the files of U-Net and scheduler lie at its root, and
    model_index.json names both all the same. diffusers looks for a component at the root when there is no subfolder of
    its name.
    """
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=32, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    for part in ("unet", "scheduler"):
        for path in (folder / part).iterdir():
            path.replace(folder / path.name)
        (folder / part).rmdir()
    torch.save(unet.state_dict(), folder / "diffusion_pytorch_model.bin")
    (folder / "README.md").write_text("Random weights, for tests.\n")
    return folder


def tiny_stable_diffusion(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionPipeline of random weights in subfolders: 16 x 16 pictures, four words, no safety checker."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(seed)
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "shoe</w>"]
    files = folder / "words"
    files.mkdir(parents=True)
    (files / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (files / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(files, model_max_length=8)
    shutil.rmtree(files)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, down_block_types=["DownEncoderBlock2D"] * 2,
                        up_block_types=["UpDecoderBlock2D"] * 2, sample_size=16)  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8, attention_head_dim=2,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae, text_encoder, tokenizer, unet, DDIMScheduler(steps_offset=1, clip_sample=False), None, None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder
