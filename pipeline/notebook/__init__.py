"""The functions and classes that the tutorial notebook imports: a small interface to the package.

May import params, data, datasets, models, training, evaluation and figures.
"""

from pipeline.notebook.data import load_images as load_images
from pipeline.notebook.data import load_mnist as load_mnist
from pipeline.notebook.models import VAE as VAE
from pipeline.notebook.models import AnnealedBetaVAE as AnnealedBetaVAE
from pipeline.notebook.models import Autoencoder as Autoencoder
from pipeline.notebook.models import BetaVAE as BetaVAE
from pipeline.notebook.models import train_model as train_model
from pipeline.notebook.models import train_vae as train_vae
from pipeline.notebook.models import vae_loss as vae_loss
from pipeline.notebook.plots import plot_interpolation as plot_interpolation
from pipeline.notebook.plots import plot_latent_grid as plot_latent_grid
from pipeline.notebook.plots import plot_reconstructions as plot_reconstructions
from pipeline.notebook.plots import plot_training_history as plot_training_history
from pipeline.notebook.plots import plot_vae_results as plot_vae_results
from pipeline.notebook.plots import visualize_latent_space as visualize_latent_space
from pipeline.params import load_params as load_params
