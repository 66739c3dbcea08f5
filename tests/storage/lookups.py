"""Every call of the product whose SQL looks something up by a list of keys, and what people ask, in rooms of their own.

A new statement with such a list needs a call in one of them: lookups_of_reads, lookups_of_days, lookups_of_alarms; a
new view or function in questions.
"""

import lookups_of_alarms
import lookups_of_days
import lookups_of_reads
import questions
from asked import HANDLED_MAX, LOOKUPS, asked
from questions import QUESTIONS

__all__ = [
    "HANDLED_MAX",
    "LOOKUPS",
    "QUESTIONS",
    "asked",
    "lookups_of_alarms",
    "lookups_of_days",
    "lookups_of_reads",
    "questions",
]
