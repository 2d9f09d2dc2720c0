"""Models in and out: the project's own file, and folders of Hugging Face transformers.

`opened.read` reads either, `native.write` and `folder.write` write them; `begin.begin` has a run
start from one.
"""
