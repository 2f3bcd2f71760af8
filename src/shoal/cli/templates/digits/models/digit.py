"""One network for all images, trained by two processes."""

import torch
from skorch import NeuralNetClassifier
from torch import nn

import shoal


@shoal.model(
    table="gold.digits", target="digit", key=["image"], metric="accuracy", workers=2, seed=7
)
def digit(lr: float = 0.003) -> NeuralNetClassifier:
    layers = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32 * 4 * 4, 10),
    )
    return NeuralNetClassifier(
        layers,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=lr,
        max_epochs=20,
        batch_size=64,
        iterator_train__shuffle=True,
        train_split=None,  # Shoal measures on its own holdout
        verbose=0,
    )
