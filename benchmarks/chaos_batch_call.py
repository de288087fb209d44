"""One call of the command line on a disk that fails, for `chaos_batch.py`.

LD_PRELOAD=failing_disk.so python benchmarks/chaos_batch_call.py '{"arguments": [...], …}'
"""

from __future__ import annotations

import json
import sys

from chaos_call import CompiledDisk

from wsiseg import cli


def main() -> None:
    job = json.loads(sys.argv[1])
    disk = CompiledDisk()
    disk.arm(job["folder"], job["from"], job["errno"], job["kinds"])
    sys.argv = ["wsiseg", *job["arguments"]]
    code = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    seen = disk.seen()
    disk.arm("", -1, 0, 0)
    print(json.dumps({"seen": seen}), flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
