"""Pictures for notebooks, from plain data and tensors: nothing here knows of pages.

- `palette`: colours, signs and borders, for light and for dark
- `words`: text of others as one safe line; numbers for people
- `samples`: a few numbers of a tensor, however large it is
- `strips`: heat over rows and histograms, as SVG
- `html`: frames and tables around them
"""
