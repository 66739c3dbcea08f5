"""The operators' console: a full-screen terminal over the Alarms service.

rows      what a line needs of an alarm
order     the alarms in the order of their urgency, kept up change by change
filters   the filter line
link      the feed on a thread of its own, the calls, how old the news is
table     the list on the screen: only the lines that show are drawn
screens   what lies over the list: prompts, the explanation, the keys
app       all of it together

Promises: what is shown is what the service told, in its order, never guessed; how old the news is shows at any time; no
text from outside reaches the terminal unescaped; colour says nothing that a word or a sign does not say too. Refuses
to know the service's code: it is a client like any other.
"""
