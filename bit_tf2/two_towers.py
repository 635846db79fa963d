"""Image-text models in TensorFlow (https://arxiv.org/abs/2303.15343). B images, T texts, E width of an embedding."""

import functools
from collections.abc import Callable

import tensorflow as tf
from tensorflow import Tensor

from bit_tf2 import optim
from bit_tf2.bert import Bert
from bit_tf2.layers import Dense, Layer, registered
from bit_tf2.mixer import Mixer
from bit_tf2.model import Model
from bit_tf2.resnet import ResNet
from bit_tf2.resnet_v1 import ResNetV1
from bit_tf2.text import Text
from bit_tf2.vit import ViT
from common.models import (
    BertConfig,
    MixerConfig,
    ResNetConfig,
    ResNetV1Config,
    TextConfig,
    TwoTowersConfig,
    ViTConfig,
)

TOWERS = {  # every family of one model
    ResNetConfig: ResNet,
    ResNetV1Config: ResNetV1,
    ViTConfig: ViT,
    MixerConfig: Mixer,
    TextConfig: Text,
    BertConfig: Bert,
}


@registered
class TwoTowers(Model):
    """Images [B, H, W, 3] and texts [T, L] to embeddings; the similarity of a pair is exp(t) * <embeddings> + b."""

    def __init__(self, config: TwoTowersConfig, *, remat: bool = False, **kwargs):
        super().__init__(config, remat=remat, **kwargs)
        self.image = TOWERS[type(config.image)](config.image, remat=remat, **kwargs)
        self.text = TOWERS[type(config.text)](config.text, remat=remat, **kwargs) if config.text else None
        self.t = self.add_weight((1,), "zeros", name="t")
        self.b = self.add_weight((1,), "zeros", name="b") if config.bias else None
        self.third = Projections(config) if config.third else None
        self.head = None
        self._adapt()

    def call(
        self,
        images: Tensor | None,
        texts: Tensor | None = None,
        features: Tensor | None = None,
        parts: int = 1,
        training: bool | None = None,
        **noise: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """(embeddings [B, E] of images, those of texts [T, E], t [1], b [1]: 0 where the model has none). None stays None.

        With several `parts`, each is computed by itself and again in the backward pass: of activations, only one part's live.
        Noise is of the images, drawn texts are whole. With `features` of a third tower, its pairs with the others follow.
        """
        zimg = self.in_parts(self.encode_image, images, parts, **noise)
        ztxt = self.in_parts(self.encode_text, texts, parts)
        pairs = () if features is None else self.third(zimg, ztxt, features)
        t = tf.convert_to_tensor(self.t)
        return zimg, ztxt, t, tf.zeros_like(t) if self.b is None else tf.convert_to_tensor(self.b), *pairs

    def similarity(self, images: Tensor, texts: Tensor) -> Tensor:
        """[B, T] of embeddings [B, E] and [T, E]."""
        found = tf.exp(self.t) * tf.matmul(images, texts, transpose_b=True)
        return found if self.b is None else found + self.b

    def features(self, images: Tensor) -> Tensor:
        """What the image tower's head, if any, is given [B, D]."""
        return self.image.features(images)

    def encode_image(self, images: Tensor, **noise: Tensor) -> Tensor:
        """The embeddings [B, E] of images, in the type of the parameters."""
        return normalized(self.image(images, **noise))

    def encode_text(self, texts: Tensor) -> Tensor:
        """The embeddings [T, E] of tokens int [T, L], or of drawn texts [T, H, W, 3] where there is no tower for texts."""
        return normalized((self.text or self.image)(texts))

    def in_parts(
        self, encode: Callable[..., Tensor], inputs: Tensor | None, parts: int, **noise: Tensor
    ) -> Tensor | None:
        """The embeddings of inputs [B, ...] with their noise, part after part; patches of all have one size."""
        if "patch_size" in noise:
            encode = functools.partial(encode, patch_size=noise.pop("patch_size"))
        if parts == 1 or inputs is None:
            return inputs if inputs is None else encode(inputs, **noise)

        def encode_part(own: Tensor, *drawn: Tensor) -> Tensor:
            return encode(own, **dict(zip(noise, drawn)))

        trained = {value.ref() for value in optim.trained(self).values()}  # the loop would compute for others, too

        @tf.custom_gradient  # TensorFlow cannot compile tf.recompute_grad within a loop
        def encoded(*cut: Tensor) -> tuple[Tensor, Callable]:
            def gradient(slopes: Tensor, variables: list[tf.Variable]) -> tuple[list[None], list[Tensor | None]]:
                own = [value for value in variables if value.ref() in trained]

                def add(part: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
                    with tf.GradientTape(watch_accessed_variables=False) as tape:
                        tape.watch(own)
                        found = encode_part(*(rows[part] for rows in cut))
                    of_part = tape.gradient(found, own, slopes[part], unconnected_gradients="zero")
                    return part + 1, *(total + tf.convert_to_tensor(value) for total, value in zip(sums, of_part))

                is_left, start = lambda part, *_: part < parts, (tf.constant(0), *map(tf.zeros_like, own))
                sums = tf.while_loop(is_left, add, start, parallel_iterations=1)[1:] if own else ()
                found = dict(zip((value.ref() for value in own), sums))
                return [None] * len(cut), [found.get(value.ref()) for value in variables]

            whole = tf.map_fn(
                lambda rows: encode_part(*rows), cut, parallel_iterations=1, fn_output_signature=self.dtype
            )
            return whole, gradient

        cut = [tf.reshape(rows, (parts, -1, *rows.shape[1:])) for rows in (inputs, *noise.values())]
        found = encoded(*cut)
        return tf.reshape(found, (-1, found.shape[-1]))


@registered
class Projections(Layer):
    """What brings a third tower together with both others (common/tasks/third.py): linear, without bias."""

    def __init__(self, config: TwoTowersConfig, **kwargs):
        super().__init__(**kwargs)
        self.image = Dense(config.width, config.width, bias=False)
        self.text = Dense(config.width, config.width, bias=False)
        self.for_image = Dense(config.third, config.width, bias=False)
        self.for_text = Dense(config.third, config.width, bias=False)

    def call(self, zimg: Tensor, ztxt: Tensor, features: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
        """Two pairs of [B, E], of length 1: the image tower and the third, the text tower and the third."""
        image, text = normalized(self.image(zimg)), normalized(self.text(ztxt))
        return (image, normalized(self.for_image(features))), (text, normalized(self.for_text(features)))


def normalized(z: Tensor) -> Tensor:
    """z [B, E] / (its norm + 1e-8)."""
    return z / (tf.norm(z, axis=1, keepdims=True) + 1e-8)
