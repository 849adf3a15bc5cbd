"""Tables of results: from runs to rows, columns, significance and files.

==================== ======================================================================
:mod:`.runs`         a run as the report sees it
:mod:`.columns`      the columns of a table, derived from its tasks
:mod:`.rows`         from runs to rows
:mod:`.way`          a mean in which no column dominates
:mod:`.table`        what a table is
:mod:`.text` ...     its renderings: text, Markdown, LaTeX, CSV, figure
:mod:`.published`    published numbers beside one's own
:mod:`.significance` paired comparisons and Holm's correction
:mod:`.comparison`   every GNN adapter against the baseline
:mod:`.effects`      what adapters do, and what they learned alike in all seeds
:mod:`.details`      scores by kind and seed
:mod:`.ablation`     all of it for one results folder
:mod:`.overview`     all of it for any number of folders, on one page
==================== ======================================================================
"""
