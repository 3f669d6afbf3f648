"""Attacks by labels, written as NumPy loops from their papers.

Each is a generator of the points that are asked about. It is sent whether the last one was a
success, and two keys: that of the next start, and that of the next question.
"""

import itertools

import jax
import numpy as np


def length(delta, norm="l2"):
    return np.linalg.norm(np.asarray(delta, float).ravel(), {"l2": 2, "linf": np.inf}[norm])


def normal(key, shape):
    return np.asarray(jax.random.normal(key, shape), float)


def begins(origin, num_halvings=10):
    """Noise until one is a success, and bisection; returns the start and the key after it."""
    won, key, _ = yield origin
    assert not won
    while True:
        point = np.asarray(jax.random.uniform(key, origin.shape), float)
        won, key, last = yield point
        if won:
            break
    low, high = origin, point
    for _ in range(num_halvings):
        won, _, last = yield (low + high) / 2
        low, high = (low, (low + high) / 2) if won else ((low + high) / 2, high)
    return high, last


def boundary_loop(attack, origin):
    """Brendel et al. (2018) as their implementation in Foolbox has it."""
    image, key = yield from begins(origin)
    spherical, source = attack.spherical_step, attack.source_step
    spheres, steps = [], []
    for step in itertools.count(1):
        inward = origin - image
        distance = length(inward)
        eta = normal(key, origin.shape)
        eta -= np.sum(eta * inward) / distance**2 * inward
        eta *= spherical * distance / length(eta)
        on_sphere = np.clip(origin + (eta - inward) / np.sqrt(spherical**2 + 1), 0, 1)
        left = origin - on_sphere
        move = max(source * distance + length(left) - distance, 0)
        candidate = np.clip(on_sphere + move / length(left) * left, 0, 1)
        won, _, key = yield candidate
        if step % attack.probe_every == 0:
            on, _, key = yield on_sphere
            spheres, steps = [*spheres[-99:], on], [*steps[-29:], won]
        if won and length(origin - candidate) < distance:
            image = candidate
        if step % attack.probe_every:
            continue
        if len(spheres) == 100 and not 0.2 <= np.mean(spheres) <= 0.5:
            factor = attack.step_adaptation ** (1 if np.mean(spheres) > 0.5 else -1)
            spherical, source, spheres = spherical * factor, source * factor, []
        if len(steps) == 30 and not 0.1 <= np.mean(steps) <= 0.25:
            source *= attack.step_adaptation ** (1 if np.mean(steps) > 0.25 else -1)
            steps = []


def hop_skip_jump_loop(attack, origin):
    """Chen et al. (2020), algorithm 2, with the details of the authors' code."""
    image, key = yield from begins(origin)
    linf, size = attack.norm == "linf", origin.size
    theta = attack.gamma / (size**2 if linf else size**1.5)
    between = lambda far, a: (
        np.clip(far, origin - a, origin + a) if linf else (1 - a) * origin + a * far
    )
    far = image
    for number in itertools.count(1):
        reach = length(far - origin, attack.norm)
        low, high = 0, reach if linf else 1
        while high - low > (min(theta, theta * reach) if linf else theta):
            middle = (low + high) / 2
            won, _, key = yield between(far, middle)
            low, high = (low, middle) if won else (middle, high)
        image = between(far, high)
        delta = 0.1 if number == 1 else (size if linf else np.sqrt(size)) * theta * reach
        directions, verdicts = [], []
        for _ in range(min(int(attack.initial_votes * np.sqrt(number)), attack.most_votes)):
            shape = origin.shape
            noise = np.asarray(
                jax.random.uniform(key, shape, minval=-1)
                if linf
                else jax.random.normal(key, shape)
            )
            point = np.clip(image + delta * noise / length(noise), 0, 1)
            won, _, key = yield point
            directions.append((point - image) / delta)
            verdicts.append(1 if won else -1)
        verdicts, directions = np.array(verdicts, float), np.array(directions)
        if abs(verdicts.mean()) < 1:
            verdicts -= verdicts.mean()
        normal_ = np.tensordot(verdicts, directions, 1) / len(verdicts)
        update = np.sign(normal_) if linf else normal_ / length(normal_)
        step = length(image - origin, attack.norm) / np.sqrt(number)
        while True:
            far = np.clip(image + step * update, 0, 1)
            won, _, key = yield far
            if won:
                break
            step /= 2


def rays_loop(attack, origin):
    """Chen and Gu (2020), as the authors' code for one image has it: channels first, in L2."""
    won, _, _ = yield origin
    assert not won
    first = np.moveaxis(origin, -1, 0)
    root = np.sqrt(origin.size)
    there = lambda signs, d: np.moveaxis(np.clip(first + d * signs / root, 0, 1), 0, -1)
    best, nearest = np.ones(first.shape), np.inf
    level = block = 0
    while True:
        size = int(np.ceil(origin.size / 2**level))
        signs = best.copy().ravel()
        signs[block * size : (block + 1) * size] *= -1
        signs = signs.reshape(first.shape)
        low, high = 0, min(nearest, root)
        won, _, _ = yield there(signs, high)
        while won and high - low > attack.tolerance:
            inside, _, _ = yield there(signs, (low + high) / 2)
            low, high = (low, (low + high) / 2) if inside else ((low + high) / 2, high)
        if won and high < nearest:
            best, nearest = signs, high
        block += 1
        if block == 2**level or block * size >= origin.size:
            level, block = level + 1, 0


def surfree_loop(attack, origin):
    """Maho et al. (2021), section 3, with the numbers of the authors' code."""
    image, key = yield from begins(origin)
    widest, earlier = attack.widest_degrees, []
    cos, sin = (lambda a: np.cos(np.radians(a))), (lambda a: np.sin(np.radians(a)))
    angles = [
        sign * (1 - i / attack.num_angles) for i in range(attack.num_angles) for sign in (1, -1)
    ]
    while True:
        outward = image - origin
        distance = length(outward)
        across = normal(key, origin.shape)
        across -= sum(np.sum(across * v) * v for v in earlier)
        across -= np.sum(across * outward) / distance**2 * outward
        across /= length(across)
        earlier = [*earlier, across][-attack.num_orthogonal :]
        arc = lambda a, u=outward / distance, v=across, d=distance: np.clip(
            origin + d * cos(a) * (u * cos(a) + v * sin(a)), 0, 1
        )
        held = None
        for share in angles:
            won, _, key = yield arc(share * widest)
            if won:
                held = share * widest
                break
        if held is None:
            widest *= attack.shrinkage
            continue
        part = np.sign(held) * widest / attack.num_angles
        wider = np.sign(held) * widest / attack.shrinkage / attack.num_angles
        fails = held + part
        while abs(share) == 1:
            won, _, key = yield arc(fails)
            if not won:
                break
            held, fails = fails, fails + wider
        widest /= attack.shrinkage
        for _ in range(10):
            if abs(cos(fails) - cos(held)) <= attack.tolerance:
                break
            won, _, key = yield arc((held + fails) / 2)
            held, fails = ((held + fails) / 2, fails) if won else (held, (held + fails) / 2)
        if length(arc(held) - origin) < distance:
            image = arc(held)
