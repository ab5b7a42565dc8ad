"""fairtale: train, prune and decode text generators inside fairseq.

This package is the library; what fairseq registers (tasks, models, criterions, schedules) lies
beside it in ``user_dir``, the folder that ``--user-dir`` names. Importing ``fairtale`` imports
neither torch nor fairseq; :func:`fairtale.plugin.register` loads the plug-in.

Shape legend, used in every docstring and shape comment:

    B  batch (rows)              S  source or prefix length
    T  target length             N  real tokens of a batch, all rows together
    C  channels                  H  heads
    D  channels of a head, C/H   V  vocabulary
    L  layers                    F  width of the feed-forward layer
    K  beam size
"""
