"""C2PA manifests with a certificate chain of one's own, made at run time: for lessons and tests, trusted by nobody.

`c2pa-python` and `cryptography` are needed and are an extra of the course, since their wheels are large and few:
`pip install c2pa-python cryptography`.
"""

from __future__ import annotations

import importlib.util
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .pictures import PictureError

ALGORITHMIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # IPTC's word for it
ORGANISATION = "Course test certificates, not trusted"


def available() -> bool:
    """Whether the two libraries are here."""
    return all(importlib.util.find_spec(name) for name in ("c2pa", "cryptography"))


def _needed() -> None:
    if not available():
        raise PictureError("Manifests need two more libraries: pip install c2pa-python cryptography.")


@dataclass(frozen=True)
class Chain:
    """A signing key and its certificates in PEM: the signer's, then that of the authority which issued it."""

    certificates: str
    key: str
    authority: str


def test_chain() -> Chain:
    """A fresh key, its certificate and the authority's, valid for a week; elliptic curve P-256 (ES256)."""
    _needed()
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        parts = [(NameOID.ORGANIZATION_NAME, ORGANISATION), (NameOID.COMMON_NAME, common)]
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])

    def certificate(subject: str, public: Any, issuer: str, signing: Any, is_authority: bool) -> x509.Certificate:
        now = datetime.now(UTC)
        uses = {use: False for use in ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                                       "encipher_only", "decipher_only")}  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **uses
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
                critical=False,
            )
        )
        if not is_authority:
            usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(usage, critical=False)
        return builder.sign(signing, hashes.SHA256())

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate("test authority", root.public_key(), "test authority", root, True)
    signer = certificate("test signer", leaf.public_key(), "test authority", root, False)
    pem = serialization.Encoding.PEM
    both = [c.public_bytes(pem).decode() for c in (signer, authority)]
    key = leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return Chain("".join(both), key, both[1])


def png(picture: Tensor) -> bytes:
    """A PNG file of a picture (C, H, W) in [-1, 1]."""
    levels = ((picture.detach().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    return resaved(Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels))


def resaved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file that Pillow writes: pixels only."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def signed(content: bytes, chain: Chain, title: str, generator: str, settings: dict[str, Any]) -> bytes:
    """The PNG `content` with a manifest: created by `generator`, a trained algorithm, with these settings.

    Raises:
        PictureError: the libraries are missing, or the picture cannot be signed.
    """
    _needed()
    import c2pa

    manifest = {
        "claim_generator_info": [{"name": generator, "version": "1"}],
        "title": title,
        "format": "image/png",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": ALGORITHMIC}]},
            },
            {"label": "org.course.settings", "data": settings},
        ],
    }
    out = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(c2pa.C2paSigningAlg.ES256, chain.certificates.encode(), chain.key.encode(), None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(manifest) as builder:
            builder.sign(signer, "image/png", io.BytesIO(content), out)
    except c2pa.C2paError as error:
        raise PictureError(f"The picture cannot be signed ({error}).") from error
    return out.getvalue()


@dataclass(frozen=True)
class Provenance:
    """What a reader of a file is told. `state`: "none" (no manifest), "Invalid", "Valid" or "Trusted".

    "Valid" says that signature and hashes fit. Whether the signer is who it says, only "Trusted" answers.
    """

    state: str
    generator: str = ""
    source: str = ""
    settings: dict[str, Any] | None = None
    faults: tuple[str, ...] = ()


def read(content: bytes, kind: str = "image/png", *, trust: Chain | None = None) -> Provenance:
    """What the library's own verifier says of a file.

    Args:
        trust: whose authority counts as trusted; without one, nobody's.
    """
    _needed()
    import c2pa

    trusting = {"trust": {"trust_anchors": trust.authority}} if trust else {}
    settings = c2pa.Settings.from_dict({"verify": {"verify_trust": True}} | trusting)
    try:
        with c2pa.Context(settings) as context, c2pa.Reader(kind, io.BytesIO(content), context=context) as reader:
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        if "ManifestNotFound" in type(error).__name__ or "no JUMBF" in str(error):
            return Provenance("none")
        return Provenance("Invalid", faults=(str(error)[:120],))
    active = store["manifests"][store["active_manifest"]]
    assertions = {a["label"]: a["data"] for a in active.get("assertions", [])}
    actions = next((a for label, a in assertions.items() if label.startswith("c2pa.actions")), {"actions": [{}]})
    return Provenance(
        store["validation_state"],
        active.get("claim_generator_info", [{}])[0].get("name", ""),
        actions["actions"][0].get("digitalSourceType", "").rsplit("/", 1)[-1],
        assertions.get("org.course.settings"),
        tuple(status["code"] for status in store.get("validation_status", [])),
    )


def with_one_pixel_changed(content: bytes) -> bytes:
    """The same PNG file, its manifest kept as it is, with the first pixel's lowest bit turned over."""
    import struct
    import zlib

    chunks, at, data = [], 8, b""
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += size + 12
    data = b"".join(body for kind, body in chunks if kind == b"IDAT")
    pixels = np.frombuffer(zlib.decompress(data), np.uint8).copy()
    pixels[1] ^= 1  # after the byte that names the first row's filter
    out, done = content[:8], False
    for kind, body in chunks:
        if kind == b"IDAT":
            if done:
                continue
            body, done = zlib.compress(pixels.tobytes()), True
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out
