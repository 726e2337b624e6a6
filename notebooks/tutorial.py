# The source of both notebooks, in jupytext's percent format. Cells of code are there once, texts once in each language.
# `python -m notebooks.build` writes latent_spaces.ipynb and espacos_latentes.ipynb from it.

# %% [markdown] lang="en"
# # Latent spaces: autoencoder and variational autoencoder
#
# *[Em português](espacos_latentes.ipynb)*
#
# An image of 28 × 28 pixels is a point in a space of 784 dimensions. Almost all points of that space are noise. Handwritten
# digits fill a thin, curved part of it. A **latent space** is a map of this part: each image gets a few coordinates, its
# **code**, from which a network draws the image again. Here the map has two coordinates, so you can look at it.
#
# You will train two networks that learn such a map:
#
# - an **autoencoder** (AE), which only learns to reconstruct images;
# - a **variational autoencoder** (VAE), which also keeps its codes close to a normal distribution.
#
# ## Goals
#
# After this notebook you can
#
# 1. explain what encoder, decoder and code are, and what changes from AE to VAE;
# 2. write down both terms of the VAE's loss, and say what values they have before training;
# 3. read a latent plane, a decoded grid and samples from the prior;
# 4. compare both models by numbers that mean the same for both;
# 5. say what β does, and what it costs.
#
# The models, the training and the figures are those of the package `pipeline`. The recipe is the one in `params.yaml`, so the
# numbers are those of `dvc repro`. The notebook takes about four minutes on two cores. With `QUICK=1` in the environment it
# takes half a minute, on small digits that need no download; its pictures then mean little.

# %% [markdown] lang="pt"
# # Espaços latentes: autoencoder e autoencoder variacional
#
# *[In English](latent_spaces.ipynb)*
#
# Uma imagem de 28 × 28 pixels é um ponto em um espaço de 784 dimensões. Quase todos os pontos desse espaço são ruído. Os
# dígitos manuscritos ocupam uma parte fina e curva dele. Um **espaço latente** é um mapa dessa parte: cada imagem recebe
# poucas coordenadas, o seu **código**, e a partir delas uma rede desenha a imagem de novo. Aqui o mapa tem duas
# coordenadas, por isso você pode vê-lo.
#
# Você vai treinar duas redes que aprendem um mapa assim:
#
# - um **autoencoder** (AE), que só aprende a reconstruir imagens;
# - um **autoencoder variacional** (VAE), que também mantém os códigos perto de uma distribuição normal.
#
# ## Objetivos
#
# Depois deste notebook, você saberá
#
# 1. explicar o que são encoder, decoder e código, e o que muda do AE para o VAE;
# 2. escrever os dois termos da perda do VAE e dizer que valores eles têm antes do treinamento;
# 3. ler um plano latente, uma grade decodificada e amostras do prior;
# 4. comparar os dois modelos com números que têm o mesmo significado para ambos;
# 5. dizer o que o β faz e quanto ele custa.
#
# Os modelos, o treinamento e as figuras são do pacote `pipeline`. A receita é a de `params.yaml`, por isso os números
# são os de `dvc repro`. O notebook leva cerca de quatro minutos em dois núcleos. Com a variável de ambiente `QUICK=1`, ele leva
# meio minuto, com dígitos pequenos que não precisam de download; nesse caso as imagens dizem pouco. O código, as figuras e as
# tabelas estão em inglês.

# %%
import os

import matplotlib.pyplot as plt
import pandas as pd
import torch

from pipeline.notebook import (
    VAE,
    Autoencoder,
    BetaVAE,
    load_mnist,
    load_params,
    plot_interpolation,
    plot_latent_grid,
    plot_reconstructions,
    plot_training_history,
    train_model,
    train_vae,
    vae_loss,
    visualize_latent_space,
)

params, dataset = load_params("../params.yaml"), "mnist"
if "QUICK" in os.environ:
    short = {name: getattr(params, name).model_copy(update={"epochs": 2}) for name in ("ae", "vae")}
    params, dataset = params.model_copy(update=short), "digits"

# %% [markdown] lang="en"
# ## 1. The images
#
# `load_mnist` gives three loaders. The models learn from the training images, the validation images choose the best
# epoch, and the test images measure the result: no choice depends on them. A pixel is an intensity from 0 (paper) to 1 (ink).

# %% [markdown] lang="pt"
# ## 1. As imagens
#
# `load_mnist` devolve três loaders. Os modelos aprendem com as imagens de treino, as imagens de validação escolhem a
# melhor época, e as imagens de teste medem o resultado: nenhuma escolha depende delas. Um pixel é uma intensidade de 0
# (papel) a 1 (tinta).

# %%
train_loader, val_loader, test_loader = load_mnist(
    params.train.batch_size, name=dataset, val_size=params.data.val_size, seed=params.seed
)
images, labels = next(iter(test_loader))
print(f"a batch: images {list(images.shape)} from {images.min():.0f} to {images.max():.0f}, labels {list(labels.shape)}")

figure, axes = plt.subplots(1, 10, figsize=(10, 1.3))
for axis, image, label in zip(axes, images[:10], labels[:10], strict=True):
    axis.imshow(image[0], cmap="gray_r")
    axis.set_title(int(label))
    axis.axis("off")

# %% [markdown] lang="en"
# ## 2. From autoencoder to variational autoencoder
#
# ```
# AE     image x ──► encoder ──► code z ──────────────────► decoder ──► image x̂
#                                one point
#
# VAE    image x ──► encoder ──► μ, σ ──► z = μ + σ · ε ──► decoder ──► image x̂
#                                a small   ▲
#                                cloud     └── ε: noise from N(0, I)
#
#        new images:              z from N(0, I) ─────────► decoder ──► image
# ```
#
# The **autoencoder** squeezes an image through two numbers and rebuilds it. Nothing tells it *where* to put its codes. So you
# cannot know from which points of the plane the decoder draws digits, and you have no rule for drawing new ones.
#
# The **variational autoencoder** starts with such a rule: draw $z$ from the **prior** $p(z) = N(0, I)$, then draw the
# pixels from $p(x \mid z)$, which the decoder gives. The encoder no longer gives a point but a small cloud for each
# image, the **posterior** $q(z \mid x) = N(\mu, \mathrm{diag}(\sigma^2))$. Training keeps the clouds, all taken together, close
# to the prior.

# %% [markdown] lang="pt"
# ## 2. Do autoencoder ao autoencoder variacional
#
# ```
# AE     imagem x ──► encoder ──► código z ────────────────► decoder ──► imagem x̂
#                                 um ponto
#
# VAE    imagem x ──► encoder ──► μ, σ ──► z = μ + σ · ε ──► decoder ──► imagem x̂
#                                 uma       ▲
#                                 nuvem     └── ε: ruído de N(0, I)
#
#        imagens novas:            z de N(0, I) ───────────► decoder ──► imagem
# ```
#
# O **autoencoder** comprime uma imagem em dois números e a reconstrói. Nada lhe diz *onde* colocar os códigos. Por isso
# você não sabe a partir de quais pontos do plano o decoder desenha dígitos, e não tem uma regra para desenhar dígitos novos.
#
# O **autoencoder variacional** começa com essa regra: sorteie $z$ do **prior** (a distribuição a priori)
# $p(z) = N(0, I)$, e depois sorteie os pixels de $p(x \mid z)$, que o decoder calcula. O encoder já não dá um ponto, mas uma
# pequena nuvem para cada imagem, o **posterior** (a distribuição a posteriori) $q(z \mid x) = N(\mu, \mathrm{diag}(\sigma^2))$.
# O treinamento mantém o conjunto das nuvens perto do prior.

# %% [markdown] lang="en"
# ## 3. The loss, before any training
#
# **Reconstruction.** Read the decoded pixel $\hat x_i$ as the probability that pixel $i$ is on. The term is the negative log
# of the probability of the image, summed over its pixels:
#
# $$-\log p(x \mid z) = -\sum_{i=1}^{784} x_i \log \hat x_i + (1 - x_i) \log (1 - \hat x_i).$$
#
# Its unit is the **nat**: 1 nat is 1 / ln 2 ≈ 1.44 bits. The autoencoder's loss is this term alone.
#
# **KL.** The VAE adds how far the cloud of an image is from the prior. For two normal distributions there is a formula:
#
# $$\mathrm{KL} = \tfrac12 \sum_j \big(\mu_j^2 + \sigma_j^2 - 1 - \ln \sigma_j^2\big).$$
#
# **Together** they are the negative **ELBO**, the evidence lower bound. It is a bound because the likelihood of an image,
# $p(x) = \int p(x \mid z)\, p(z)\, dz$, is never smaller:
#
# $$\log p(x) \;\ge\; \mathbb{E}_{q(z \mid x)} \log p(x \mid z) \;-\; \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big).$$
#
# Which values are good? The next cell gives the scale. The last row is a floor: a gray pixel costs something even when
# $\hat x_i = x_i$. The models are not trained yet.

# %% [markdown] lang="pt"
# ## 3. A perda, antes de treinar
#
# **Reconstrução.** Leia o pixel decodificado $\hat x_i$ como a probabilidade de que o pixel $i$ esteja ligado. O termo é o
# logaritmo negativo da probabilidade da imagem, somado sobre os pixels:
#
# $$-\log p(x \mid z) = -\sum_{i=1}^{784} x_i \log \hat x_i + (1 - x_i) \log (1 - \hat x_i).$$
#
# A unidade é o **nat**: 1 nat é 1 / ln 2 ≈ 1,44 bit. A perda do autoencoder é só este termo.
#
# **KL.** O VAE soma um termo que mede quanto a nuvem de uma imagem se afasta do prior. Para duas distribuições normais existe
# uma fórmula:
#
# $$\mathrm{KL} = \tfrac12 \sum_j \big(\mu_j^2 + \sigma_j^2 - 1 - \ln \sigma_j^2\big).$$
#
# **Juntos** eles são o negativo do **ELBO** (evidence lower bound, limite inferior da evidência). É um limite porque a
# verossimilhança de uma imagem, $p(x) = \int p(x \mid z)\, p(z)\, dz$, nunca é menor:
#
# $$\log p(x) \;\ge\; \mathbb{E}_{q(z \mid x)} \log p(x \mid z) \;-\; \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big).$$
#
# Que valores são bons? A próxima célula dá a escala. A última linha é um piso: um pixel cinza custa algo mesmo com
# $\hat x_i = x_i$. Os modelos ainda não foram treinados.

# %%
torch.manual_seed(params.seed)
autoencoder = Autoencoder(input_dim=784, latent_dim=2, hidden_dims=params.ae.hidden_dims)
torch.manual_seed(params.seed)
vae = VAE(input_dim=784, latent_dim=2, hidden_dims=params.vae.hidden_dims)
print(vae)

x = torch.cat([images for images, _ in test_loader]).flatten(1)
mean_image = train_loader.dataset.tensors[0].flatten(1).mean(0).expand_as(x)
at_prior = torch.zeros(len(x), 2)  # mu = 0 and ln sigma^2 = 0: every cloud is the prior
with torch.no_grad():
    x_recon, mu, logvar, _ = vae(x)
    terms = {
        "every pixel 0.5": vae_loss(torch.full_like(x, 0.5), x, at_prior, at_prior),
        "untrained VAE": vae_loss(x_recon, x, mu, logvar),
        "the mean image for every image": vae_loss(mean_image, x, at_prior, at_prior),
        "the image itself": vae_loss(x, x, at_prior, at_prior),
    }
pd.DataFrame(terms).T.astype(float).round(2)

# %% [markdown] lang="en"
# Untrained, the VAE draws gray, and its clouds hardly differ from the prior, so the KL term is almost 0. Training will
# lower the reconstruction term and *raise* the KL term: a code that says which digit it is must differ from the prior.
#
# **The reparameterization trick.** The loss is computed with one draw of $z$ from the cloud. A draw has no derivative with
# respect to $\mu$ and $\sigma$. Written as $z = \mu + \sigma \odot \epsilon$, with $\epsilon$ from $N(0, I)$, the same draw
# has one. The next cell makes two checks for one cloud: the formula of the KL term against a mean over draws, and the gradient
# of $\mathbb{E}[z^2] = \mu^2 + \sigma^2$, which must be $2\mu$ and $2\sigma$.

# %% [markdown] lang="pt"
# Sem treinamento, o VAE desenha cinza, e as nuvens quase não diferem do prior; por isso o termo KL é quase 0. O
# treinamento vai diminuir o termo de reconstrução e *aumentar* o termo KL: um código que diz qual é o dígito precisa ser
# diferente do prior.
#
# **O truque da reparametrização.** A perda é calculada com um único sorteio de $z$ da nuvem. Um sorteio não tem derivada
# em relação a $\mu$ e $\sigma$. Escrito como $z = \mu + \sigma \odot \epsilon$, com $\epsilon$ de $N(0, I)$, o mesmo
# sorteio tem derivada. A próxima célula faz duas verificações para uma nuvem: a fórmula do termo KL contra uma média sobre
# sorteios, e o gradiente de $\mathbb{E}[z^2] = \mu^2 + \sigma^2$, que deve ser $2\mu$ e $2\sigma$.

# %%
mu, sigma = torch.tensor(1.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
z = mu + sigma * torch.randn(200_000)

prior, posterior = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(mu, sigma)
formula = 0.5 * (mu**2 + sigma**2 - 1 - (sigma**2).log())
sampled = (posterior.log_prob(z) - prior.log_prob(z)).mean()
print(f"KL: formula {formula:.3f}, mean over draws {sampled:.3f} nats")

z.square().mean().backward()
print(f"gradient through the draws: {mu.grad:.3f} (2 mu = {2 * mu:.3f}), {sigma.grad:.3f} (2 sigma = {2 * sigma:.3f})")

# %% [markdown] lang="en"
# ## 4. Training
#
# Both models train by the recipe of `params.yaml` ([what it contains and why](../docs/recipe.md)). The weights of the
# epoch with the lowest validation loss are kept. The weight of the VAE's KL term rises over the first epochs
# (`train_kl` and `val_kl` first fall, then settle).

# %% [markdown] lang="pt"
# ## 4. Treinamento
#
# Os dois modelos treinam com a receita de `params.yaml` ([o que ela contém e por quê](../docs/recipe.md), em inglês).
# Ficam os pesos da época com a menor perda de validação. O peso do termo KL do VAE cresce nas primeiras épocas
# (`train_kl` e `val_kl` primeiro caem, depois se estabilizam).

# %%
ae_history = train_model(autoencoder, train_loader, val_loader, params=params, verbose=True)

# %%
vae_history = train_vae(vae, train_loader, val_loader, params=params)

# %%
models = {"ae": autoencoder, "vae": vae}
plot_training_history({"AE": ae_history, "VAE": vae_history})
plot_reconstructions(models, test_loader)

# %% [markdown] lang="en"
# Two numbers are enough for the class and for some of the style, such as the slant. What they cannot hold is lost: both
# models draw a typical digit near the true one.
#
# ## 5. Two maps of the same images
#
# Each dot is the code of one of 1,000 test images; for the VAE it is the center of the cloud. The circles are one, two
# and three standard deviations of the prior. Look at the axes: the autoencoder may use any scale.

# %% [markdown] lang="pt"
# Dois números bastam para a classe e para uma parte do estilo, como a inclinação. O que não cabe neles se perde: os dois
# modelos desenham um dígito típico, parecido com o verdadeiro.
#
# ## 5. Dois mapas das mesmas imagens
#
# Cada ponto é o código de uma de 1.000 imagens de teste; para o VAE é o centro da nuvem. Os círculos são um, dois e três
# desvios padrão do prior. Observe os eixos: o autoencoder pode usar qualquer escala.

# %%
visualize_latent_space(models, test_loader)

# %% [markdown] lang="en"
# The same in numbers. If codes follow the prior, each coordinate has mean 0 and standard deviation 1, and 95% of the
# codes lie within radius $\sqrt{-2 \ln 0.05} \approx 2.45$ of the origin. For the VAE the cell takes one draw from each
# cloud.

# %% [markdown] lang="pt"
# O mesmo em números. Se os códigos seguem o prior, cada coordenada tem média 0 e desvio padrão 1, e 95% dos códigos
# ficam dentro do raio $\sqrt{-2 \ln 0{,}05} \approx 2{,}45$ em torno da origem. Para o VAE a célula usa um sorteio de
# cada nuvem.

# %%
device = next(vae.parameters()).device
x = x.to(device)
with torch.no_grad():
    codes, (_, mu, logvar, draws) = autoencoder.encode(x), vae(x)
pd.DataFrame(
    {
        name: {
            "largest mean": points.mean(0).abs().max(),
            "smallest standard deviation": points.std(0).min(),
            "largest standard deviation": points.std(0).max(),
            "share within radius 2.45": (points.norm(dim=1) < 2.45).float().mean(),
        }
        for name, points in {"AE codes": codes, "VAE draws": draws}.items()
    }
).astype(float).round(2)

# %% [markdown] lang="en"
# ## 6. The manifold
#
# Decode a grid of 20 × 20 points, and lay out the images as their points lie. Follow a row or a column. Where does one
# digit turn into another, and what is between them?

# %% [markdown] lang="pt"
# ## 6. A variedade (manifold)
#
# Decodifique uma grade de 20 × 20 pontos e coloque as imagens onde estão os seus pontos. Siga uma linha ou uma coluna.
# Onde um dígito se transforma em outro, e o que há entre eles?

# %%
plot_latent_grid(vae, n_samples=20, latent_range=(-3, 3))

# %% [markdown] lang="en"
# ## 7. Drawing new images
#
# The VAE has its rule: draw $z$ from $N(0, I)$ and decode. The autoencoder has none, and its codes do not lie where $N(0, I)$
# is. A fairer comparison fits a normal distribution to its codes (right). Which samples look most like digits?

# %% [markdown] lang="pt"
# ## 7. Desenhar imagens novas
#
# O VAE tem a sua regra: sorteie $z$ de $N(0, I)$ e decodifique. O autoencoder não tem nenhuma, e os seus códigos não
# ficam onde está $N(0, I)$. Uma comparação mais justa ajusta uma distribuição normal aos códigos dele (à direita). Quais
# amostras se parecem mais com dígitos?

# %%
torch.manual_seed(params.seed)
with torch.no_grad():
    fitted = torch.distributions.MultivariateNormal(codes.mean(0), torch.cov(codes.T))
    drawn = {
        "VAE, N(0, I)": vae.sample(num_samples=16),
        "AE, N(0, I)": autoencoder.decode(torch.randn(16, 2, device=device)),
        "AE, fitted normal distribution": autoencoder.decode(fitted.sample((16,))),
    }

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6))
for axis, (name, samples) in zip(axes, drawn.items(), strict=True):
    axis.imshow(samples.reshape(4, 4, 28, 28).transpose(1, 2).reshape(112, 112).cpu(), cmap="gray_r")
    axis.set_title(name)
    axis.axis("off")

# %% [markdown] lang="en"
# Sixteen images are not a measurement. The pipeline draws thousands from each model and measures how far they are from real
# digits, by their Fréchet distance ([results](../docs/results.md)).
#
# ## 8. Interpolation
#
# Take the codes of two test images, walk on a straight line from one to the other, and decode on the way. Two numbers describe a
# walk of 32 points: the length of the path in pixels, divided by the distance between its ends (1 is straight), and the
# longest of the 31 steps as a share of the path (1/31 ≈ 0.03 is even, near 1 is one sudden jump). The table has the medians
# over 100 pairs.

# %% [markdown] lang="pt"
# Dezesseis imagens não são uma medida. O pipeline sorteia milhares de cada modelo e mede a que distância elas estão de
# dígitos reais, pela distância de Fréchet ([resultados](../docs/results.md), em inglês).
#
# ## 8. Interpolação
#
# Tome os códigos de duas imagens de teste, vá em linha reta de um ao outro e decodifique no caminho. Dois números descrevem
# um caminho de 32 pontos: o comprimento do caminho em pixels dividido pela distância entre as pontas (1 é reto), e o maior
# dos 31 passos como fração do caminho (1/31 ≈ 0,03 é uniforme, perto de 1 é um salto). A tabela mostra as medianas de 100
# pares.

# %%
plot_interpolation(models, test_loader)


def path_statistics(model, x1, x2):
    path = model.interpolate(x1, x2, num_steps=32)
    steps = path.diff(dim=0).norm(dim=1)
    return torch.stack([steps.sum() / (path[-1] - path[0]).norm(), steps.max() / steps.sum()])


pairs = torch.randperm(len(x))[:200].reshape(100, 2)
paths = {name: torch.stack([path_statistics(model, x[i], x[j]) for i, j in pairs]) for name, model in models.items()}
rows = ["path / distance of the ends", "longest step / path"]
pd.DataFrame({name: values.median(0).values for name, values in paths.items()}, index=rows).astype(float).round(3)

# %% [markdown] lang="en"
# ## 9. Comparison
#
# Both models on all test images, in nats per image. Compare the models only in the first row: there both decode the code
# itself. In the second row the VAE decodes a draw from its cloud, which costs it something that the autoencoder never
# pays. Only the VAE has the other rows; σ is the size of its clouds. Its negative ELBO is an upper bound on $-\log p(x)$.

# %% [markdown] lang="pt"
# ## 9. Comparação
#
# Os dois modelos em todas as imagens de teste, em nats por imagem. Compare os modelos só na primeira linha: ali ambos
# decodificam o próprio código. Na segunda linha, o VAE decodifica um sorteio da nuvem, e isso lhe custa algo que o
# autoencoder nunca paga. Só o VAE tem as outras linhas; σ é o tamanho das nuvens. O negativo do ELBO é um limite
# superior de $-\log p(x)$.


# %%
@torch.no_grad()
def test_terms(model):
    x_recon, mu, logvar, _ = model(x)
    sampled, at_mean = (vae_loss(recon, x, mu, logvar) for recon in (x_recon, model.decode(mu)))
    return {
        "reconstruction at the code": at_mean["reconstruction"],
        "reconstruction, sampled": sampled["reconstruction"],
        "KL": sampled["kl"],
        "-ELBO": sampled["total"],
        "mean σ": (logvar / 2).exp().mean(),
    }


torch.manual_seed(params.seed)
with torch.no_grad():
    ae_terms = vae_loss(autoencoder.decode(codes), x, torch.zeros_like(codes), torch.zeros_like(codes))
columns = {"AE": {"reconstruction at the code": ae_terms["reconstruction"]}, "VAE": test_terms(vae)}
pd.DataFrame(columns).astype(float).round(2).astype(object).fillna("")

# %% [markdown] lang="en"
# ## 10. The role of β
#
# A **β-VAE** weighs its terms: reconstruction + β · KL. With β = 1 the loss is the negative ELBO. With a larger β a code
# costs more, so the clouds get wider and say less about their image. To compare, look at both terms *without* the weight: the
# loss itself has another meaning for each β. Here is the same VAE with β = 4.

# %% [markdown] lang="pt"
# ## 10. O papel do β
#
# Um **β-VAE** dá um peso aos termos: reconstrução + β · KL. Com β = 1, a perda é o negativo do ELBO. Com um β maior, um
# código custa mais; as nuvens ficam mais largas e dizem menos sobre a imagem. Para comparar, olhe para os dois termos
# *sem* o peso: a própria perda tem outro significado para cada β. Aqui está o mesmo VAE com β = 4.

# %%
torch.manual_seed(params.seed)
beta_vae = BetaVAE(input_dim=784, latent_dim=2, hidden_dims=params.vae.hidden_dims, beta=4.0)
train_vae(beta_vae, train_loader, val_loader, params=params, verbose=False)

torch.manual_seed(params.seed)
betas = {"β = 1": vae, "β = 4": beta_vae}
pd.DataFrame({name: test_terms(model) for name, model in betas.items()}).astype(float).round(2)

# %%
visualize_latent_space(betas, test_loader)

# %% [markdown] lang="en"
# The KL term falls and the reconstruction gets worse by more: with two dimensions a larger β costs more than it saves. With many
# dimensions it can be worth it: β then decides how many of them are used at all, and whether each stands for one property of the
# image.
#
# ## 11. Summary
#
# | | autoencoder | variational autoencoder |
# |---|---|---|
# | an image becomes | a point | a cloud, $N(\mu, \mathrm{diag}(\sigma^2))$ |
# | loss | reconstruction | reconstruction + KL |
# | where codes lie | anywhere, at any scale | close to $N(0, I)$ |
# | new images | no rule; a distribution fitted to the codes helps | draw from $N(0, I)$, decode |
# | walks between codes | long stretches without change, then jumps | more even steps |
# | likelihood of an image | none | bounded by the ELBO |
#
# - The VAE's reconstruction is not worse here: noise on the code acts against overfitting as well.
# - The KL term is a price for information: about 7 nats, or 10 bits, for an image.
# - One training is one sample. Which of these statements hold over five seeds, and which do not, is measured in
#   [the results](../docs/results.md).
#
# ## 12. What comes next
#
# **β-VAE and disentanglement.** A latent space is *disentangled* if each coordinate changes one property of the image
# and no other, such as slant, width or thickness. Start with more dimensions, a larger β, and a slow rise of the KL weight:
# `AnnealedBetaVAE(latent_dim=10, max_beta=4.0)`. Move one coordinate at a time and look (`plot_vae_results` does that). To
# measure it you need images whose properties are known. Papers: β-VAE (Higgins et al., 2017), *Understanding disentangling in
# β-VAE* (1804.03599), and *Challenging common assumptions* (1811.12359), which shows that it does not come by itself.
#
# **Exercises**
#
# 1. Train the VAE with another `torch.manual_seed`. Which differences between AE and VAE stay?
# 2. Train a VAE with `latent_dim=16`. How far does the -ELBO fall? How many of the 16 dimensions have a mean KL above
#    0.1 nats?
# 3. Compare `AnnealedBetaVAE(max_beta=4.0, anneal_steps=5)` with `BetaVAE(beta=4.0)`. Is the difference larger than that
#    of two seeds?
# 4. Find a hole: a point within radius 2 at which a model decodes no digit that you can name. Is a code near it?
# 5. Write the loss yourself with `binary_cross_entropy` and `torch.distributions.kl_divergence`, and check it against
#    `vae_loss`.
# 6. Train the VAE on `load_mnist(name="fashion_mnist")`. Which classes share a region of the map?
#
# **The pipeline.** A notebook keeps no record of what it ran; the pipeline does. In the root of the repository:
#
# ```
# dvc repro                    # data, both models, evaluation, figures and the explorer of both planes
# dvc exp run -S beta=4        # the same with another β; the autoencoder comes from the cache
# dvc metrics diff             # what changed
# ```

# %% [markdown] lang="pt"
# O termo KL cai e a reconstrução piora mais do que isso: com duas dimensões, um β maior não compensa. Com muitas
# dimensões pode compensar: então o β decide quantas delas são usadas, e se cada uma representa uma propriedade da imagem.
#
# ## 11. Resumo
#
# | | autoencoder | autoencoder variacional |
# |---|---|---|
# | uma imagem vira | um ponto | uma nuvem, $N(\mu, \mathrm{diag}(\sigma^2))$ |
# | perda | reconstrução | reconstrução + KL |
# | onde ficam os códigos | em qualquer lugar, em qualquer escala | perto de $N(0, I)$ |
# | imagens novas | sem regra; ajustar uma distribuição aos códigos ajuda | sorteie de $N(0, I)$, decodifique |
# | caminhos entre códigos | trechos longos sem mudança, depois saltos | passos mais uniformes |
# | verossimilhança de uma imagem | nenhuma | limitada pelo ELBO |
#
# - A reconstrução do VAE não é pior aqui: o ruído no código também age contra o sobreajuste.
# - O termo KL é um preço pela informação: cerca de 7 nats, ou 10 bits, por imagem.
# - Um treinamento é uma única amostra. Quais destas afirmações valem para cinco sementes, e quais não, está medido nos
#   [resultados](../docs/results.md) (em inglês).
#
# ## 12. O que vem depois
#
# **β-VAE e desemaranhamento (disentanglement).** Um espaço latente é *desemaranhado* se cada coordenada muda uma
# propriedade da imagem e nenhuma outra, como inclinação, largura ou espessura. Comece com mais dimensões, um β maior e
# um peso do KL que cresce devagar: `AnnealedBetaVAE(latent_dim=10, max_beta=4.0)`. Mova uma coordenada de cada vez e
# observe (`plot_vae_results` faz isso). Para medir você precisa de imagens com propriedades conhecidas. Artigos: β-VAE
# (Higgins et al., 2017), *Understanding disentangling in β-VAE* (1804.03599), e *Challenging common assumptions*
# (1811.12359), que mostra que isso não surge sozinho.
#
# **Exercícios**
#
# 1. Treine o VAE com outro `torch.manual_seed`. Quais diferenças entre AE e VAE permanecem?
# 2. Treine um VAE com `latent_dim=16`. Quanto cai o -ELBO? Quantas das 16 dimensões têm um KL médio acima de 0,1 nat?
# 3. Compare `AnnealedBetaVAE(max_beta=4.0, anneal_steps=5)` com `BetaVAE(beta=4.0)`. A diferença é maior que a de duas
#    sementes?
# 4. Ache um buraco: um ponto dentro do raio 2 em que um modelo não decodifica nenhum dígito que você reconheça. Há um
#    código perto?
# 5. Escreva a perda você mesmo com `binary_cross_entropy` e `torch.distributions.kl_divergence`, e confira com `vae_loss`.
# 6. Treine o VAE com `load_mnist(name="fashion_mnist")`. Quais classes compartilham uma região do mapa?
#
# **O pipeline.** Um notebook não registra o que executou; o pipeline registra. Na raiz do repositório:
#
# ```
# dvc repro                    # dados, os dois modelos, avaliação, figuras e o explorador dos dois planos
# dvc exp run -S beta=4        # o mesmo com outro β; o autoencoder vem do cache
# dvc metrics diff             # o que mudou
# ```
