"""Tables of results: which runs they have, and from finished runs to rows, comparisons and pages.

================== ===============================================================================
:mod:`.grid`       which runs make up a table, as files say it; :mod:`.plan` as cells
:mod:`.tune`       learning rates, joins and arguments chosen on validation data
:mod:`.runs`       finished runs, read and checked: folders of tables, single runs, archives
:mod:`.frame`      their scores: columns, a line for each row and seed, means over seeds
:mod:`.variance`   how sure a mean difference is
:mod:`.compare`    paired comparisons with Holm's correction
:mod:`.table`      what a table is, and how runs become one
:mod:`.render`     a table as text, Markdown, LaTeX, CSV; :mod:`.figure` as intervals
:mod:`.details`    what stands behind a table, as frames of texts; :mod:`.page` all on one page
:mod:`.make`       a table's runs are made, the table is printed and saved
:mod:`.scored`     what a file of predictions scores
================== ===============================================================================
"""
