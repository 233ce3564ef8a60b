"""A host, live or in a directory -> Recording.

Reads what vfiohost reads and what tells a simulated kernel how the host would act. It wakes no
hardware (``config`` on request only) and does not wait behind a stuck device: attributes whose
reading takes the device lock go through helper processes with a deadline. Serial numbers, MAC
addresses and vital product data are not read; what else identifies the machine is masked.
"""

from vfiohost.record.describing import MASKED_NOTE, describe
from vfiohost.record.functions import capture

__all__ = ["MASKED_NOTE", "capture", "describe"]
