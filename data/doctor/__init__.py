"""What is in shards, and what is wrong with them: every record is read, every fault is named, nothing is changed."""

from data.doctor.examine import Options, examine
from data.doctor.findings import Findings

__all__ = ["Findings", "Options", "examine"]
