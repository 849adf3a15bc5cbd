"""One page for any number of runs: from folders to an HTML file and to Markdown.

============================ ===================================================================
:mod:`.found`                the finished runs of the folders that a user names
:mod:`.grouped`              which of them make a table, and which a row of it
:mod:`.blocks`               what a page is made of
:mod:`.sections`             the sections of a table
:mod:`.curves`               loss, learning rate and validation scores as figures
:mod:`.here`                 how runs were made, beside the published setting
:mod:`.page`                 the whole page
:mod:`.html`, :mod:`.plain`  its renderings
:mod:`.drawing`              figures as SVG that follows a page's colours, and as PNG
============================ ===================================================================
"""
