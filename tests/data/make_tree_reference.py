#!/usr/bin/env python3
"""Makes tree_reference.txt: trees with random tensors, and what NumPy's einsum gives for them in complex128.

    python3 tests/data/make_tree_reference.py > tests/data/tree_reference.txt

A case: a line "tree NODES"; for each node a line "node PARENT SIZES...", then a line with its elements, real and
imaginary parts as the 32-bit floats they are (hexadecimal); "bond PARENT AXIS CHILD AXIS" lines; then
"value SIZES..." and a line with the elements of the contracted tree. Nodes come parent first; the parent of the first is
-1. Free axes of the value: nodes in depth-first pre-order, children in the order of their bonds.
"""
import string

import numpy

random = numpy.random.default_rng(20261123)


def line(elements):
    parts = numpy.ascontiguousarray(elements).reshape(-1).view(elements.real.dtype)
    return " ".join(float(x).hex() for x in parts)


def case(nodes, most_bond, most_free):
    axes = [[] for _ in range(nodes)]  # letters of each node
    parents, children, bonds = [-1], [[] for _ in range(nodes)], []
    size = {}
    letters = iter(string.ascii_letters)
    for child in range(1, nodes):
        parent = int(random.integers(child))
        parents.append(parent)
        children[parent].append(child)
        for _ in range(1 if random.random() < 0.7 else 2):
            letter = next(letters)
            size[letter] = int(random.integers(1, most_bond + 1))
            axes[parent].append(letter)
            axes[child].append(letter)
            bonds.append((parent, child, letter))
    for own in axes:
        for _ in range(int(random.integers(0, 3))):
            letter = next(letters)
            size[letter] = int(random.integers(1, most_free + 1))
            own.append(letter)
        random.shuffle(own)
        if not own:
            letter = next(letters)
            size[letter] = 1
            own.append(letter)
    bonded = {letter for _, _, letter in bonds}
    tensors = []
    for own in axes:
        shape = [size[letter] for letter in own]
        tensors.append((random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(numpy.complex64))
    order, stack = [], [0]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(reversed(children[node]))
    free = "".join(letter for node in order for letter in axes[node] if letter not in bonded)
    formula = ",".join("".join(own) for own in axes) + "->" + free
    value = numpy.einsum(formula, *[t.astype(numpy.complex128) for t in tensors], optimize="greedy")
    print("tree", nodes)
    for node in range(nodes):
        print("node", parents[node], *tensors[node].shape)
        print(line(tensors[node]))
    for parent, child, letter in bonds:
        print("bond", parent, axes[parent].index(letter), child, axes[child].index(letter))
    print("value", *(value.shape or (1,)))
    print(line(numpy.asarray(value)))


for nodes, most_bond, most_free in [(1, 1, 5), (2, 5, 4), (3, 6, 3), (4, 4, 3), (5, 4, 2), (6, 5, 2), (8, 3, 2), (10, 3, 2)]:
    for _ in range(2):
        case(nodes, most_bond, most_free)
