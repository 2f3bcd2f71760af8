"""Keras with TensorFlow, in several processes: gradients added up by TensorFlow's collectives."""

from __future__ import annotations

from typing import Any

import numpy as np

from shoal.models.deep.batches import Batches
from shoal.models.deep.keras_estimators import not_finite
from shoal.models.deep.seeds import epoch_seed
from shoal.training.distributed.learners import Context, Transformed

__all__ = ["collective_add", "learn_keras"]


def learn_keras(estimator: Any, rows: Transformed, context: Context) -> None:
    """Fit a Keras model as one worker; see `shoal.training.distributed.learners.learn`."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(estimator.seed)
    features, target = rows.take(np.arange(min(len(rows), 64)))
    estimator.start(features, target, context.classes)
    model, given = estimator.model_, estimator.wrapper.fit_kwargs or {}
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    state = [*model.weights, *optimizer.variables]
    first = 0
    saved = context.restore()
    if saved is not None:
        first = saved[1]
        _restore(state, saved[0])
    batches = Batches(
        rows=rows,
        size=int(given.get("batch_size") or 32),
        shuffle=bool(given.get("shuffle", True)),
        seed=estimator.seed,
        rank=context.rank,
        workers=context.workers,
    )

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def gradients(x: Any, y: Any, share: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
        found = tape.gradient(loss, model.trainable_variables)
        flat = [tf.reshape(tf.convert_to_tensor(g), [-1]) for g in found]
        return tf.concat([*flat, tf.reshape(loss, [1])], 0) * share

    for epoch in range(first, int(given.get("epochs", 1))):
        keras.utils.set_random_seed(epoch_seed(estimator.seed, epoch, context.rank + 1))
        total = 0.0
        for share in batches.epoch(epoch):
            x, y = estimator.converted(share.features, share.target)
            weight = np.float32(share.rows / share.total)
            flat = context.add(gradients(x, y, weight).numpy())
            at, parts = 0, []
            for variable in model.trainable_variables:
                size = int(np.prod(variable.shape))
                parts.append(flat[at : at + size].reshape(tuple(variable.shape)))
                at += size
            optimizer.apply([tf.convert_to_tensor(p) for p in parts], model.trainable_variables)
            total += float(flat[-1]) * share.total
        if not np.isfinite(total):
            raise not_finite(total / len(rows), epoch + 1)
        context.save(_saved(state) if context.rank == 0 else b"", epoch + 1)


def _saved(state: list[Any]) -> bytes:
    from safetensors.numpy import save

    return bytes(save({f"{i:05}": np.array(v) for i, v in enumerate(state)}))


def _restore(state: list[Any], data: bytes) -> None:
    from safetensors.numpy import load

    found = load(data)
    for i, variable in enumerate(state):
        variable.assign(found[f"{i:05}"])


def collective_add(workers: int) -> Any:
    """A function that adds a float32 vector up over the cluster of ``TF_CONFIG``.

    Args:
        workers: How many there are.
    """
    import tensorflow as tf

    if workers == 1:
        return lambda values: values
    # Starts this worker's server and waits for the others.
    tf.distribute.MultiWorkerMirroredStrategy()

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def add(values: Any) -> Any:
        return tf.raw_ops.CollectiveReduceV2(
            input=values, group_size=workers, group_key=1, instance_key=1, ordering_token=[],
            merge_op="Add", final_op="Id", communication_hint="RING",
        )  # fmt: skip

    return lambda values: add(tf.convert_to_tensor(values)).numpy()
