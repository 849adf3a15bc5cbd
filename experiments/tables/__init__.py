"""Tables of results: from finished runs to rows, comparisons, pages and files.

================== ===============================================================================
:mod:`.runs`       finished runs, read and checked: folders of tables, single runs, archives
:mod:`.frame`      the columns of a table, a line for each row and seed, means over seeds
:mod:`.variance`   how sure a mean difference is
:mod:`.compare`    paired comparisons with Holm's correction
:mod:`.published`  numbers from elsewhere beside one's own
:mod:`.table`      what a table is, and how runs become one
:mod:`.render`     a table as text, Markdown, LaTeX, CSV; :mod:`.figure` as dots
:mod:`.details`    what stands behind a table, as grids of texts
:mod:`.page`       all of it for any folders, on one page
:mod:`.scored`     what a file of predictions scores
:mod:`.post_hoc`   a summary of the study that was chosen after its scores were known
================== ===============================================================================
"""
