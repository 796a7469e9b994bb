"""Scores: every image once, against a count by hand."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

from fracgen.train.engine.evaluate import Scores, draw_confusion, evaluate, write_confusion
from fracgen.train.ranks import Ranks

ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))


class Told(nn.Module):
    """Logits that are the pixels themselves: what is guessed is known."""

    def forward(self, images):
        return images[:, 0, 0]


def scored(logits, labels, batch=7):
    num, classes = logits.shape
    images = logits[:, None, None].expand(num, 3, 1, classes)
    batches = zip(images.split(batch), labels.split(batch), strict=True)
    return evaluate(Told(), batches, num_classes=classes, amp=None, ranks=ALONE)


@pytest.mark.parametrize("classes", [2, 5, 6, 12])
def test_scores_are_those_counted_by_hand(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.rand(101, classes, generator=generator)
    labels = torch.randint(classes, (101,), generator=generator)
    labels[labels == 1] = 0  # a class without images
    scores = scored(logits, labels)
    confusion, in_top5 = np.zeros((classes, classes), int), 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(classes), key=lambda guess, row=row: -row[guess])
        confusion[label, order[0]] += 1
        in_top5 += label in order[:5]
    assert np.array_equal(scores.confusion, confusion) and scores.images == 101
    assert scores.top1 == sum(confusion[n, n] for n in range(classes)) / 101
    assert scores.top5 == (in_top5 / 101 if classes > 5 else None)
    names = [f"class {n}" for n in range(classes)]
    share = scores.per_class(names)
    assert share["class 1"] is None
    assert share["class 0"] == pytest.approx(confusion[0, 0] / confusion[0].sum(), abs=1e-6)


def test_a_model_is_left_in_its_mode():
    model = Told().train()
    evaluate(model, [], num_classes=3, amp=None, ranks=ALONE)
    assert model.training


def test_no_image_is_no_division_by_zero():
    assert scored(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).top1 == 0


@pytest.mark.parametrize("classes", [3, 50])
@pytest.mark.curves
def test_the_confusion_as_picture_and_table(tmp_path, classes):
    names = ["with, comma", r"$\foo$", *(f"class {n}" for n in range(classes - 2))]
    scores = Scores(images=0, right=0, in_top5=None, confusion=np.arange(classes**2).reshape(classes, classes))
    draw_confusion(scores, names, "test: 50 %", tmp_path / "confusion.png")
    write_confusion(scores, names, tmp_path / "confusion.csv")
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.reader((tmp_path / "confusion.csv").open()))
    assert rows[0] == ["class", *names] and [row[0] for row in rows[1:]] == names
    assert np.array_equal(np.array([row[1:] for row in rows[1:]], int), scores.confusion)
    assert {path.name for path in tmp_path.iterdir()} == {"confusion.png", "confusion.csv"}
