"""Hooks run in torch's order, see and may change what torch's do, and are lost where torch's are."""

import contextlib
import copy
import pickle

import pytest
import torch
from contract_cases import SEVEN, THREE, agree, attempt, fill, look, parameters, start, train
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

pytestmark = pytest.mark.usefixtures("one_thread")


def noting(log, word):
    """A hook that notes its word and what kind of things it was called with."""

    def hook(opt, *args):
        log.append((word, type(opt).__name__, [type(arg).__name__ for arg in args], len(opt.state)))

    return hook


@contextlib.contextmanager
def global_hooks(log):
    """A pre and a post hook on every optimizer there is."""
    handles = [
        register_optimizer_step_pre_hook(noting(log, "global pre")),
        register_optimizer_step_post_hook(noting(log, "global post")),
    ]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", SEVEN)
def test_order_of_step_hooks(name):
    """Global pre, own pre in order, closure, own post, global post: each once a step, however many classes exist."""

    def script(optim):
        log = []
        for other in SEVEN:
            start(optim, other)
        opt, params = start(optim, name)
        for number in range(2):
            opt.register_step_pre_hook(noting(log, f"pre {number}"))
            opt.register_step_post_hook(noting(log, f"post {number}"))
        with global_hooks(log):
            fill(params, 0)
            opt.step(lambda: log.append("closure"))
            opt.step()
        opt.step()
        return log, look(opt, params)

    log, _ = agree(script)
    words = [entry if isinstance(entry, str) else entry[0] for entry in log]
    assert words[:7] == ["global pre", "pre 0", "pre 1", "closure", "post 0", "post 1", "global post"]
    assert words[7:] == [word for word in words[:7] if word != "closure"] + ["pre 0", "pre 1", "post 0", "post 1"]


@pytest.mark.parametrize("name", THREE)
def test_a_removed_hook_is_silent(name):
    """A handle takes its own hook away and no other, at once, also while it is being called."""

    def script(optim):
        log = []
        opt, params = start(optim, name)
        first = opt.register_step_pre_hook(noting(log, "first"))
        opt.register_step_pre_hook(noting(log, "second"))
        with opt.register_step_post_hook(noting(log, "as a context")):
            train(opt, params, (0,))
        first.remove()
        train(opt, params, (1,))
        return log

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_a_pre_hook_that_changes_gradients(name):
    """A pre hook may clip or replace gradients: the step uses what it left."""

    def script(optim):
        opt, params = start(optim, name)

        def clip(opt, args, kwargs):
            torch.nn.utils.clip_grad_norm_(params, 0.1)
            params[1].grad = None if len(opt.state) else params[1].grad * 2

        opt.register_step_pre_hook(clip)
        train(opt, params, range(3))
        return look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("style", ["positional", "keyword", "none", "garbage", "triple"])
def test_a_pre_hook_that_replaces_the_arguments(name, style):
    """A pre hook may hand over other arguments, such as another closure; anything but a pair is torch's error."""

    def script(optim):
        opt, params = start(optim, name)
        fill(params, 0)

        def replace(opt, args, kwargs):
            return {
                "positional": ((opt, lambda: "theirs"), {}),
                "keyword": ((opt,), {"closure": lambda: "theirs"}),
                "none": None,
                "garbage": "garbage",
                "triple": (args, kwargs, None),
            }[style]

        opt.register_step_pre_hook(replace)
        loss = attempt(lambda: opt.step(lambda: "ours"))
        text = getattr(loss, "text", None)  # it names the wrapped function, which is another one here
        return (text[text.index("must") :] if text else loss), look(opt, params)

    agree(script)


@pytest.mark.parametrize("where", ["pre", "closure", "post"])
def test_an_error_in_a_hook_or_closure(where):
    """An error on the way out of a step passes unchanged, leaves grad mode as it was, and the next step works."""

    def script(optim):
        opt, params = start(optim, "AdamW")

        def fail(*args):
            raise RuntimeError("mine")

        handles = []
        if where != "closure":
            handles.append(getattr(opt, f"register_step_{where}_hook")(fail))
        fill(params, 0)
        error = attempt(lambda: opt.step(fail if where == "closure" else None))
        for handle in handles:
            handle.remove()
        seen = torch.is_grad_enabled(), look(opt, params)
        train(opt, params, (1,))
        return error, seen, look(opt, params)

    agree(script)


@pytest.mark.parametrize("name", SEVEN)
def test_order_of_state_dict_hooks(name):
    """State-dict and load hooks run in order, those with prepend first, and see and may replace the dict."""

    def script(optim):
        log = []
        opt, params = start(optim, name)
        train(opt, params, range(2))
        kinds = ("state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post")
        for kind in kinds:
            register = getattr(opt, f"register_{kind}_hook")
            register(noting(log, f"{kind} 0"))
            register(noting(log, f"{kind} 1"))
            register(noting(log, f"{kind} first"), prepend=True)
        opt.load_state_dict(opt.state_dict())
        train(opt, params, (2,))
        return log, look(opt, params)

    log, _ = agree(script)
    assert [entry[0].rsplit(" ", 1)[1] for entry in log[:12]] == ["first", "0", "1"] * 4


@pytest.mark.parametrize("name", THREE)
def test_hooks_that_replace_the_state_dict(name):
    """A post hook of state_dict may return another dict, a pre hook of load_state_dict, too; in place works as well."""

    def script(optim):
        opt, params = start(optim, name, {"lr": 0.1})
        train(opt, params, range(2))
        opt.register_state_dict_post_hook(lambda opt, found: {**found, "extra": "mine"})
        opt.register_state_dict_post_hook(lambda opt, found: found.update(more=1))
        saved = opt.state_dict()

        def halve(opt, found):
            groups = [{**group, "lr": group["lr"] / 2} for group in found["param_groups"]]
            return {**found, "param_groups": groups}

        opt.register_load_state_dict_pre_hook(halve)
        opt.register_load_state_dict_pre_hook(lambda opt, found: found.pop("extra") and None)
        opt.load_state_dict(saved)
        train(opt, params, range(2, 4))
        return list(saved), look(opt, params)

    agree(script)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_hooks_and_copies(copier):
    """A copy of an optimizer has the hooks that torch's copy has, and a step of it is hooked once."""

    def script(optim):
        params = parameters("AdamW")
        opt = optim.AdamW(params)
        opt.register_step_pre_hook(hook_of_the_module)
        train(opt, params, range(2))
        opt, params = copier((opt, params))
        log = []
        opt.register_step_post_hook(noting(log, "post"))
        train(opt, params, (2,))
        names = [key for key in vars(opt) if "hooks" in key]
        return log, names, [len(getattr(opt, name)) for name in names]

    agree(script)


def hook_of_the_module(opt, args, kwargs):
    """A hook that pickle can find."""


def test_hooks_are_six_ordered_dicts():
    """The six tables of hooks are attributes of torch's names and types, empty at first, and clients may read them."""

    def script(optim):
        opt, _ = start(optim, "AdamW")
        return sorted((key, type(value).__name__, len(value)) for key, value in vars(opt).items() if "hooks" in key)

    assert len(agree(script)) == 6
