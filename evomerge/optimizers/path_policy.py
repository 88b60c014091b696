"""A policy that walks paths of layers, by preference: the networks of HM3 and how they learn.

The state of a walk is what a GRU has seen of its steps, the preference, and how long it is. The policy is a
Gaussian over proto-actions: which source, and how many layers on. The nearest steps there are to one are
looked at by the value network, which picks among them (Wolpertinger, Dulac-Arnold et al. 2015,
arXiv:1512.07679). Learnt by clipped PPO (Schulman et al. 2017, arXiv:1707.06347) with generalised advantages
(Schulman et al. 2016, arXiv:1506.02438), after HM3 (Zhou et al. 2025, arXiv:2409.18893).

A policy that has learnt nothing walks the layers in order: proto-actions are relative to the last step.

Where the space has scales, their logarithm is one more dimension of the proto-action; or, as in the paper, a
scaling network aligns layers that do not follow one another: its mean is a function of both ends and of the
place in the path alone, whatever the preference, and a layer that follows has scale 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from evomerge.optimizers.gaussian import one_thread
from evomerge.optimizers.settings import Hm3Settings
from evomerge.search_space import LayerPaths, Step

SPREAD, SCALE_SPREAD = 0.35, 0.1
"""First standard deviations: of a source and of layers, of a scale's logarithm."""

UNSURE = 0.25
"""Squared distance within which others are as near to a proto-action as the nearest; one layer is 1 off."""

EMBEDDED = 8
LARGEST_GRADIENT = 0.5


@dataclass(frozen=True, eq=False)
class Walk:
    """One path, and what the policy did on it: N actions, the last of which may be to stop.

    Attributes:
        preference: float64 [objectives].
        steps: the path.
        protos: proto-actions, float64 [N, D].
        densities: their log densities, float64 [N].
        values: of the states they were taken in, float64 [N].
    """

    preference: np.ndarray
    steps: tuple[Step, ...]
    protos: np.ndarray
    densities: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Update:
    """What the networks learnt from, and how well they knew it before.

    Attributes:
        walks: how many.
        reward: mean of what their paths were worth.
        steps: mean length of the paths.
        explained: share of the variance of the returns that the value network foresaw, at most 1; 0 where
            returns do not vary.
        moved: mean of old less new log density of what was done, which estimates how far the policy went.
        spread: mean standard deviation of the proto-actions afterwards.
    """

    walks: int
    reward: float
    steps: float
    explained: float
    moved: float
    spread: float


class PathPolicy(nn.Module):
    """See the module. All numbers are decided by `seed` and by what `learn` was given, in order."""

    def __init__(self, paths: LayerPaths, objectives: int, seed: int, settings: Hm3Settings) -> None:
        super().__init__()
        self._paths, self._settings = paths, settings
        self._sources = {name: number for number, name in enumerate(paths.sources)}
        self._depth = 1 + max(layer for _, layer in paths.choices)
        count, hidden = len(self._sources), settings.hidden
        scaled = paths.scale is not None
        self._aligned = scaled and settings.alignment == "network"
        known = hidden + objectives + count + 3
        with _repeatable(seed):
            self.source = nn.Embedding(count, EMBEDDED, dtype=torch.float64)
            self.layer = nn.Embedding(self._depth, EMBEDDED, dtype=torch.float64)
            self.memory = nn.GRUCell(2 * EMBEDDED + 1, hidden, dtype=torch.float64)
            self.actor = _network(known, hidden, count + 1 + (scaled and not self._aligned))
            self.critic = _network(known, hidden, 1)
            if self._aligned:
                self.scaling = _network(4 * EMBEDDED + 1, hidden, 1)
            start = [math.log(SPREAD)] * (count + 1) + [math.log(SCALE_SPREAD)] * scaled
            self.spread = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self._optimiser = torch.optim.Adam(self.parameters(), lr=settings.rate)

    @torch.no_grad()
    def walk(self, preference: np.ndarray, rng: np.random.Generator) -> Walk:
        """A path for a preference, within the limits."""
        with _repeatable():
            return self._walk(preference, rng)

    def _walk(self, preference: np.ndarray, rng: np.random.Generator) -> Walk:
        paths, settings = self._paths, self._settings
        wanted = torch.tensor(preference)[None]
        memory = torch.zeros(1, settings.hidden, dtype=torch.float64)
        steps: list[Step] = []
        used: Counter[int] = Counter()
        protos, densities, values = [], [], []
        while len(steps) < paths.most:
            free = [n for n in range(len(paths.choices)) if used[n] < paths.repeats]
            if not free:
                break
            state = self._state(memory, wanted, [steps])
            noise = torch.tensor(rng.normal(size=len(self.spread)))
            around = self.spread.exp() * noise
            mean = self._mean(state, [steps])
            proto = mean[0] + around[: mean.shape[1]]
            values.append(float(self.critic(state)[0, 0]))
            chosen = self._nearest(proto, steps, free)
            taken = None
            if chosen[0] == len(paths.choices):
                logarithms = around[-1:]
            else:
                chosen = [number for number in chosen if number < len(paths.choices)]
                logarithms = self._logarithms(proto, around, steps, chosen)
                scales = [self._scale(value) for value in logarithms.tolist()]
                place = self._pick(chosen, scales, memory, wanted, steps, rng)
                taken, logarithms = chosen[place], logarithms[place : place + 1]
            if self._aligned:
                proto = torch.cat([proto, logarithms])
            protos.append(proto.numpy())
            densities.append(float(self._log_density(proto[None], mean, [steps], [taken])[0]))
            if taken is None:
                break
            steps.append((taken, scales[place]))
            used[taken] += 1
            memory = self.memory(self._seen(steps[-1:]), memory)
        return Walk(preference, tuple(steps), np.array(protos), np.array(densities), np.array(values))

    def _pick(
        self,
        chosen: Sequence[int],
        scales: Sequence[float],
        memory: torch.Tensor,
        wanted: torch.Tensor,
        steps: list[Step],
        rng: np.random.Generator,
    ) -> int:
        """The place of the one of most value, or now and then of any; of equals that of the nearest."""
        count = len(chosen)
        if count == 1:
            return 0
        if rng.random() < self._settings.explore:
            return int(rng.integers(count))
        further = list(zip(chosen, scales, strict=True))
        after = self.memory(self._seen(further), memory.expand(count, -1).contiguous())
        tries = [[*steps, step] for step in further]
        found = self.critic(self._state(after, wanted.expand(count, -1), tries))[:, 0]
        return int(torch.argmax(found))

    def _logarithms(
        self, proto: torch.Tensor, around: torch.Tensor, steps: list[Step], chosen: Sequence[int]
    ) -> torch.Tensor:
        """Of the scale with which each chosen step would be taken: float64 [n]."""
        if self._aligned:
            scaling, apart = self._scalings([steps] * len(chosen), chosen)
            return scaling + apart * around[-1]
        return proto[-1].expand(len(chosen))

    def _scalings(
        self, walks: Sequence[Sequence[Step]], taken: Sequence[int | None]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The scaling network's mean logarithms for steps after walks, and 1.0 where they do not follow.

        Float64 [n] twice; both 0.0 for a step that follows the last one in its source, and for None.
        """
        ends, places, apart = [], [], []
        for steps, number in zip(walks, taken, strict=True):
            source, layer = self._last(steps)
            there = (source, layer + 1)
            if number is not None:
                name, at = self._paths.choices[number]
                there = (self._sources[name], at)
            apart.append(float(there != (source, layer + 1)))
            ends.append((source, max(layer, 0), there[0], min(there[1], self._depth - 1)))
            places.append(len(steps) / self._depth)
        which = torch.tensor(ends)
        known = [self.source(which[:, 0]), self.layer(which[:, 1])]
        known += [self.source(which[:, 2]), self.layer(which[:, 3])]
        shown = torch.cat([*known, torch.tensor(places, dtype=torch.float64)[:, None]], dim=1)
        differs = torch.tensor(apart, dtype=torch.float64)
        return self.scaling(shown)[:, 0] * differs, differs

    def _log_density(
        self,
        protos: torch.Tensor,
        mean: torch.Tensor,
        walks: Sequence[Sequence[Step]],
        taken: Sequence[int | None],
    ) -> torch.Tensor:
        """Log densities of what was done after walks, whose actor's means are known: float64 [n]."""
        if not self._aligned:
            return _density(protos, mean, self.spread).sum(dim=1)
        scaling, apart = self._scalings(walks, taken)
        every = _density(protos, torch.cat([mean, scaling[:, None]], dim=1), self.spread)
        return every[:, :-1].sum(dim=1) + apart * every[:, -1]

    def _nearest(self, proto: torch.Tensor, steps: list[Step], free: Sequence[int]) -> list[int]:
        """The nearest steps to a proto-action, nearest first; `len(choices)` is to stop.

        Only those about as near as the first: with few evaluations a value network tells little, and steps
        far from what the policy means would undo it.
        """
        paths, count = self._paths, len(self._sources)
        last_source, last_layer = self._last(steps)
        numbers = list(free)
        ends = [(self._sources[source], layer) for source, layer in (paths.choices[n] for n in free)]
        if len(steps) >= paths.least:
            numbers.append(len(paths.choices))
            ends.append((last_source, self._depth))
        codes = np.zeros((len(ends), count + 1))
        for row, (source, layer) in enumerate(ends):
            codes[row, source] = 1.0
            codes[row, count] = layer - last_layer - 1
        apart = ((codes - proto[: count + 1].numpy()) ** 2).sum(axis=1)
        order = np.argsort(apart, kind="stable")[: self._settings.nearest]
        return [numbers[place] for place in order.tolist() if apart[place] <= apart[order[0]] + UNSURE]

    def _scale(self, logarithm: float) -> float:
        """The scale on the grid nearest to e to the logarithm; 1 where there are none."""
        if self._paths.scale is None:
            return 1.0
        low, high, width = self._paths.scale
        value = min(max(math.exp(min(logarithm, 10.0)), low), high)
        return round(low + round((value - low) / width) * width, 12)

    def _last(self, steps: Sequence[Step]) -> tuple[int, int]:
        """(source, layer) of the last step; before the first, what lies before the layers in order."""
        if not steps:
            return self._sources[self._paths.choices[self._paths.home[0][0]][0]], -1
        source, layer = self._paths.choices[steps[-1][0]]
        return self._sources[source], layer

    def _seen(self, steps: Sequence[Step]) -> torch.Tensor:
        """What the memory is shown of steps: float64 [n, 2 * EMBEDDED + 1]."""
        ends = [self._paths.choices[number] for number, _ in steps]
        sources = torch.tensor([self._sources[source] for source, _ in ends])
        layers = torch.tensor([layer for _, layer in ends])
        scales = torch.tensor([[math.log(scale)] for _, scale in steps], dtype=torch.float64)
        return torch.cat([self.source(sources), self.layer(layers), scales], dim=1)

    def _state(
        self, memory: torch.Tensor, wanted: torch.Tensor, walks: Sequence[Sequence[Step]]
    ) -> torch.Tensor:
        """Memory, preference, last source and layer, and length: float64 [n, known]."""
        plain = np.zeros((len(walks), len(self._sources) + 3))
        for row, steps in enumerate(walks):
            source, layer = self._last(steps)
            plain[row, source] = 1.0
            plain[row, -3] = (layer + 1) / self._depth
            plain[row, -2] = len(steps) / self._depth
            plain[row, -1] = float(len(steps) == 0)
        return torch.cat([memory, wanted, torch.from_numpy(plain)], dim=1)

    def _mean(self, state: torch.Tensor, walks: Sequence[Sequence[Step]]) -> torch.Tensor:
        """Means of proto-actions: the last source and one layer on, and what the actor adds."""
        found: torch.Tensor = self.actor(state)
        ahead = np.zeros(tuple(found.shape))
        for row, steps in enumerate(walks):
            ahead[row, self._last(steps)[0]] = 1.0
        return found + torch.from_numpy(ahead)

    def learn(self, walks: Sequence[Walk], rewards: Sequence[float]) -> Update:
        """Some epochs of PPO on walks and what their paths were worth."""
        with _repeatable():
            return self._learn(walks, rewards)

    def _learn(self, walks: Sequence[Walk], rewards: Sequence[float]) -> Update:
        settings = self._settings
        gains, targets = [], []
        for walk, reward in zip(walks, rewards, strict=True):
            count = len(walk.protos)
            paid = np.zeros(count)
            if settings.reward == "spread":
                paid[:] = reward / count
            else:
                paid[-1] = reward
            gain = advantages(paid, walk.values, settings.discount, settings.trace)
            gains.append(gain)
            targets.append(gain + walk.values)
        raw = torch.tensor(np.concatenate(gains))
        relative = (raw - raw.mean()) / (raw.std() + 1e-8)
        target = torch.tensor(np.concatenate(targets))
        proto = torch.tensor(np.concatenate([walk.protos for walk in walks]))
        before = torch.tensor(np.concatenate([walk.densities for walk in walks]))
        for _ in range(settings.epochs):
            states, parts, taken = self._unrolled(walks)
            mean = self._mean(states, parts)
            ratio = (self._log_density(proto, mean, parts, taken) - before).exp()
            held = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip)
            surrogate = torch.minimum(ratio * relative, held * relative).mean()
            error = ((self.critic(states)[:, 0] - target) ** 2).mean()
            entropy = self.spread.sum()
            loss = -surrogate + settings.value * error - settings.entropy * entropy
            self._optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), LARGEST_GRADIENT)
            self._optimiser.step()
        varies = float(target.var(unbiased=False))
        return Update(
            walks=len(walks),
            reward=float(np.mean(rewards)),
            steps=float(np.mean([len(walk.steps) for walk in walks])),
            explained=1.0 - float(raw.var(unbiased=False)) / varies if varies > 0.0 else 0.0,
            moved=float(-ratio.detach().log().mean()),
            spread=float(self.spread.detach().exp().mean()),
        )

    def _unrolled(
        self, walks: Sequence[Walk]
    ) -> tuple[torch.Tensor, list[Sequence[Step]], list[int | None]]:
        """States of all actions of all walks, walk by walk, the steps before each, and the one taken."""
        wanted = torch.tensor(np.array([walk.preference for walk in walks]))
        memory = torch.zeros(len(walks), self._settings.hidden, dtype=torch.float64)
        longest = max(len(walk.protos) for walk in walks)
        at = []
        for turn in range(longest):
            parts = [walk.steps[:turn] for walk in walks]
            at.append(self._state(memory, wanted, parts))
            shown = [walk.steps[turn] if turn < len(walk.steps) else (0, 1.0) for walk in walks]
            memory = self.memory(self._seen(shown), memory)
        states = [at[turn][row] for row, walk in enumerate(walks) for turn in range(len(walk.protos))]
        turns = [(walk.steps, turn) for walk in walks for turn in range(len(walk.protos))]
        before = [steps[:turn] for steps, turn in turns]
        taken = [steps[turn][0] if turn < len(steps) else None for steps, turn in turns]
        return torch.stack(states), list(before), taken


def advantages(paid: np.ndarray, values: np.ndarray, discount: float, trace: float) -> np.ndarray:
    """Generalised advantages of a finished walk, float64 [N].

    `sum_i (discount trace)^i (r_(t+i) + discount V_(t+i+1) - V_(t+i))`, V being 0 after the end.
    """
    found = np.zeros(len(paid))
    ahead = following = 0.0
    for turn in range(len(paid) - 1, -1, -1):
        ahead = paid[turn] + discount * following - values[turn] + discount * trace * ahead
        found[turn], following = ahead, values[turn]
    return found


def _network(known: int, hidden: int, out: int) -> nn.Sequential:
    """Two layers, the last of which begins at zero."""
    last = nn.Linear(hidden, out, dtype=torch.float64)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(known, hidden, dtype=torch.float64), nn.Tanh(), last)


def _density(proto: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Log density of each dimension."""
    return -0.5 * ((proto - mean) / spread.exp()) ** 2 - spread - 0.5 * math.log(2.0 * math.pi)


@contextmanager
def _repeatable(seed: int | None = None) -> Iterator[None]:
    """On one thread, so that sums have one order; what torch draws is drawn from `seed`."""
    with one_thread():
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[], enabled=seed is not None):
                if seed is not None:
                    torch.random.manual_seed(seed)
                yield
        finally:
            torch.set_num_threads(threads)
