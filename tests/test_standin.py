"""The stand-in takes what huggingface_hub sends, and nothing else."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from course_utils import standin


def test_a_folder_arrives_the_same_in_every_byte_and_a_second_time_too(tmp_path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    (tmp_path / "unet" / "weights.safetensors").write_bytes(bytes(range(256)) * 5000)
    with standin.Hub() as hub:
        api = HfApi(hub.endpoint, token="none")
        api.create_repo("you/model", private=True)
        api.upload_folder(repo_id="you/model", folder_path=tmp_path)
        (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Another\n")
        api.upload_folder(repo_id="you/model", folder_path=tmp_path)
    sent = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert hub.files == {"you/model": sent}
    assert hub.requests[0] == "POST /api/repos/create"


def test_what_it_does_not_imitate_is_refused() -> None:
    with standin.Hub() as hub, pytest.raises(HfHubHTTPError):
        HfApi(hub.endpoint, token="none").model_info("you/model")
