"""What is wrong with the data of a benchmark before any model sees it: absent and changed sets, copies, cues."""

from ood_nc.data.audit.cues import CUES, cue_detection
from ood_nc.data.audit.document import audit_data
from ood_nc.data.audit.looks import Looks, look
from ood_nc.data.audit.near_duplicates import NearDuplicate, find_near_duplicates

__all__ = ["CUES", "Looks", "NearDuplicate", "audit_data", "cue_detection", "find_near_duplicates", "look"]
