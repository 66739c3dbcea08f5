"""The client for programs that send reads (HeadEnd), follow alarms (AlarmFeed) or keep the registry (import_registry).

    with HeadEnd("127.0.0.1:50551", "HES-1") as head_end:
        head_end.send_columns(meter, meter_index, end_us, 900, import_wh=wh)
        print(head_end.flush())

Promises: a batch is kept until it is answered and sent again after every break, under the same number; never more
batches unanswered than the service allows. Refuses to know files, databases and the service's code.
"""

from meterwatch.client.encode import Row
from meterwatch.client.errors import Incomplete, Refused, Superseded, Unreachable
from meterwatch.client.feed import AlarmFeed
from meterwatch.client.gaps import Gap, missing_reads
from meterwatch.client.headend import HeadEnd
from meterwatch.client.registry import RegistryFile, import_registry
from meterwatch.client.retry import Backoff
from meterwatch.client.secure import security
from meterwatch.client.totals import Totals
from meterwatch.client.vocabulary import event_codes, event_phases

__all__ = [
    "AlarmFeed",
    "Backoff",
    "Gap",
    "HeadEnd",
    "Incomplete",
    "Refused",
    "RegistryFile",
    "Row",
    "Superseded",
    "Totals",
    "Unreachable",
    "event_codes",
    "event_phases",
    "import_registry",
    "missing_reads",
    "security",
]
