"""Tables of results: the runs of a table, and from finished runs to rows, comparisons and pages.

================== ===============================================================================
:mod:`.grid`       the runs of a table, defined by files; :mod:`.plan` completes them
:mod:`.tune`       learning rates, joins and arguments chosen on validation data
:mod:`.runs`       finished runs, read and checked: folders of tables, single runs, archives
:mod:`.frame`      their scores: columns, a line for each row and seed, means over seeds
:mod:`.variance`   uncertainty of a mean difference
:mod:`.compare`    paired comparisons with Holm's correction
:mod:`.table`      a table and its construction from runs
:mod:`.render`     a table as text, Markdown, LaTeX, CSV; :mod:`.figure` as intervals
:mod:`.details`    details of a table, as frames of texts; :mod:`.page` all on one page
:mod:`.make`       execution of a table's runs, printing and saving of the table
:mod:`.scored`     scores of a file of predictions
================== ===============================================================================
"""
