"""Everything about the arithmetic that may change the last bits of a result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from wsiseg.errors import UsageError

PRECISIONS = ("float32", "bfloat16", "float16")
DEVICE_KINDS = ("cpu", "cuda")
BACKENDS = ("torch", "rows")
TTA = ("none", "flips", "flips+turns")


@dataclass(frozen=True, slots=True)
class Numerics:
    """Part of a tile's identity: equal on all workers, recorded in `run.json`."""

    device_kind: str = "cpu"
    """`cpu` or `cuda`."""
    precision: str = "float32"
    """Number format of the network's arithmetic."""
    batch_size: int = 1
    """Tiles per call of the network."""
    threads: int = 1
    """Threads inside one call of the network.  More tiles at once use more cores, so it
    stays 1: then one process and many workers give the same bits."""
    backend: str = "torch"
    """What runs the network: `torch`, or `rows`, wsiseg's own arithmetic for one CPU core in
    float32."""
    tta: str = "none"
    """Test-time augmentation: maps are means over the block as it is (`none`), its mirror
    images too (`flips`, 4 calls of the network), or those of the turned block as well
    (`flips+turns`, 8 calls)."""

    def __post_init__(self) -> None:
        if self.device_kind not in DEVICE_KINDS:
            raise UsageError(f"device {self.device_kind!r}; one of {DEVICE_KINDS} is needed")
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r}; one of {PRECISIONS} is needed")
        if self.backend not in BACKENDS:
            raise UsageError(f"backend {self.backend!r}; one of {BACKENDS} is needed")
        if self.tta not in TTA:
            raise UsageError(f"tta {self.tta!r}; one of {TTA} is needed")
        if self.backend == "rows" and (self.device_kind, self.precision) != ("cpu", "float32"):
            raise UsageError(
                f"backend rows on {self.device_kind} in {self.precision}; it computes on a cpu in "
                "float32 only: use backend torch"
            )
        if self.batch_size < 1 or self.threads < 1:
            raise UsageError(
                f"batch size {self.batch_size} and threads {self.threads}; both must be 1 or more"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; `tta` only where there is any.

        So runs of versions without it are recognised.
        """
        fields = asdict(self)
        if self.tta == "none":
            del fields["tta"]
        return fields
