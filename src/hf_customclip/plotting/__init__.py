"""Every image that this package draws, in one style, with Matplotlib (the `plots` extra) and without a display.

Each `plot_` function returns a `matplotlib.figure.Figure`, which `save_figure` writes.
"""

from .curves import OperatingCurve as OperatingCurve
from .curves import plot_precision_recall as plot_precision_recall
from .curves import plot_recall_curve as plot_recall_curve
from .curves import plot_training_curves as plot_training_curves
from .grids import Hit as Hit
from .grids import QueryHits as QueryHits
from .grids import plot_image_to_text as plot_image_to_text
from .grids import plot_images as plot_images
from .grids import plot_text_to_image as plot_text_to_image
from .matrices import plot_confusion_matrix as plot_confusion_matrix
from .matrices import plot_similarity as plot_similarity
from .style import save_figure as save_figure
