"""The verbs that train, sample, compare and report."""

import importlib
import shlex
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table
from rich.text import Text

from handrail.cli.feedback_store import meant
from handrail.cli.frame import Assignments, Config, loading, out, verb
from handrail.cli.results import described, example, following, learnt, lines, panel, sickness, stages_of
from handrail.cli.settings_help import WithSettings, schema
from handrail.config import Settings, load, read_yaml

if TYPE_CHECKING:
    from handrail.pipeline import Round

S = TypeVar("S", bound=Settings)

Whole = Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML file of a round.", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a round, of a run or of a search.", show_default=False)]
ReportFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; RUN/report.html if not given.")]
Runs = Annotated[Path, typer.Argument(metavar="RUNS", help="A folder with run folders in it, or one run's.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Of this machine; 0 takes any that is free.")]
Store = Annotated[
    str,
    typer.Option("--db", metavar="PATH|URL", help="The feedback store.", show_default="the stores of the runs, and ./feedback.db"),
]
Open = Annotated[bool, typer.Option("--open", help="Open it in the browser.")]


def add(app: typer.Typer) -> None:
    """The verbs in the order of a round."""
    app.command(cls=WithSettings, rich_help_panel="Begin")(run)
    for stage in (sft, sample, reward, ppo, reinforce, best_of_n, dpo, relaxed, evaluate):
        app.command(stage.__name__, cls=WithSettings, rich_help_panel="Stages")(stage)  # not best-of-n
    app.command(rich_help_panel="Look")(report)
    app.command(rich_help_panel="Look")(inspect)


def settings(name: str, config: Path, assignments: list[str] | None) -> Settings:
    """The settings of a stage, from its own file or from a whole round's, which fills in what follows from the round."""
    found = read_yaml(config)  # before the recipe is imported, which takes seconds
    given = assignments or []
    with loading():
        from handrail.parallel import Parallel
        from handrail.pipeline.alone import by_itself
        from handrail.pipeline.settings import is_round

    if not is_round(found):
        return load(schema(name), config, given, section=name)
    return Parallel.joined().first(lambda: by_itself(found, name, config, given))


def stage_result(name: str, folder: Path, summary: dict | None) -> dict:
    """Say what a training stage has shown; return it for --json."""
    out.print(f"[green]✓[/] [bold]{name}[/]  {learnt(name, folder)}")
    if said := described(summary or {}):
        out.print(Text(f"read: {said}", "dim"))
    return {"stage": name, "folder": str(folder), "model": str(folder / "model"), "summary": summary or {}}


def policy_stage(name: str, config: Path, assignments: list[str] | None) -> dict:
    """Run the recipe that improves a policy, say what it has shown and what to type next; return it for --json."""
    cfg = settings(name, config, assignments)
    done = importlib.import_module(f"handrail.recipes.{name}").run(cfg)
    result = stage_result(name, done.folder, done.summary)
    start = cfg.policy.path  # type: ignore[attr-defined]
    following(
        [(f"handrail chat {start} {done.folder}", "before and after, side by side"), (f"handrail report {done.folder}", "its curves")]
    )
    return result


@verb
def sft(config: Config, assignments: Assignments = None) -> dict:
    """Teach a model to answer like demonstrations: supervised fine-tuning.

    The loss is taken on the responses alone. The run folder holds the model, the numbers of every step and checkpoints;
    the same command goes on where it was interrupted.

    Example:  [bold]handrail sft sft.yaml data.path=demonstrations.jsonl model.path=Qwen/Qwen2.5-0.5B lr=2e-5[/]
    """
    cfg = settings("sft", config, assignments)
    from handrail.recipes import sft as recipe

    done = recipe.run(cfg)  # type: ignore[arg-type]
    result = stage_result("sft", done.folder, done.summary)
    following([(f"handrail chat {done.folder}", "talk to it"), (f"handrail report {done.folder}", "its curves")])
    return result


@verb
def reward(config: Config, assignments: Assignments = None) -> dict:
    """Learn from comparisons which of two responses people prefer: a reward model.

    Begin with the model after SFT. The test on held-out prompts stands beside what a rule on length alone reaches.

    The data may also be rankings of several responses, or ratings of them. Where they name criteria (helpful, concise),
    each gets a head of its own. With heads=4 it is an ensemble; PPO may then go by its most doubtful head:
    reward.combine.rule=minimum.

    Example:  [bold]handrail reward reward.yaml model.path=runs/sft data.path=comparisons.jsonl[/]
    """
    cfg = settings("reward", config, assignments)
    from handrail.recipes import reward as recipe

    done = recipe.run(cfg)  # type: ignore[arg-type]
    result = stage_result("reward", done.folder, done.summary)
    following([(f"handrail report {done.folder}", "its curves, accuracy and calibration")])
    return result


@verb
def ppo(config: Config, assignments: Assignments = None) -> dict:
    """Improve a model by the reward it earns, held near where it began: PPO.

    Each step the policy answers prompts, the reward model or a Python function scores the answers, and the policy moves
    a little towards what scored well. What leaving the reference costs is kl.beta. With a partner, who answers as the user,
    conversations of several turns are learned from.

    Example:  [bold]handrail ppo ppo.yaml policy.path=runs/sft reward.model=runs/reward prompts.path=prompts.jsonl[/]
    """
    return policy_stage("ppo", config, assignments)


@verb
def reinforce(config: Config, assignments: Assignments = None) -> dict:
    """Improve a model by the reward it earns, without a critic that looks ahead: REINFORCE, RLOO, GRPO and their kin.

    A token is credited with what its response earned, less a baseline: baseline.kind leave_one_out is RLOO,
    group_normalised is GRPO, group is Dr. GRPO, batch_normalised is REINFORCE++. With several passes over a batch take
    an objective with a ratio: objective.kind ppo_clip, gspo, ppo_penalty or importance. People's ratings can be the
    reward, without a reward model: ratings.path instead of prompts and reward.

    Example:  [bold]handrail reinforce rloo.yaml policy.path=runs/sft reward.model=runs/reward prompts.path=prompts.jsonl[/]
    """
    return policy_stage("reinforce", config, assignments)


@verb
def relaxed(config: Config, assignments: Assignments = None) -> dict:
    """Improve a model by differentiating the reward model itself, through a relaxed choice of token.

    No policy gradient: the chain rule from the score to the weights, by straight-through Gumbel-softmax or by expected
    embeddings. It scatters little and is biased, and it finds what a reward model wrongly likes sooner than any other:
    watch the monitor. The reward model must have been trained on the policy's own vocabulary.

    Example:  [bold]handrail relaxed relaxed.yaml policy.path=runs/sft reward=runs/reward prompts.path=prompts.jsonl[/]
    """
    return policy_stage("relaxed", config, assignments)


@verb
def dpo(config: Config, assignments: Assignments = None) -> dict:
    """Improve a model by preferences themselves, without a reward model: DPO, IPO, KTO, ORPO, SimPO.

    A response's implicit reward is how much likelier the policy makes it than the model that it began as. The loss pushes
    the implicit rewards of preferred and other responses apart; loss.beta is what that may cost. Begin with the model after
    SFT, and watch logp_chosen: the preferred responses often lose probability too, only less than the others.

    Comparisons and rankings come from data (for kto also ratings, with a threshold); with online settings the policy
    answers prompts itself and a reward model or a Python function puts its answers in order.

    Example:  [bold]handrail dpo dpo.yaml policy.path=runs/sft data.path=comparisons.jsonl loss.name=ipo[/]
    """
    return policy_stage("dpo", config, assignments)


@verb
def best_of_n(config: Config, assignments: Assignments = None) -> dict:
    """Imitate the best of n own responses: pseudo-labelling, the supervised way to use a reward.

    Each step the model answers every prompt n times, and learns from the answer that scores best as from a demonstration.
    No critic, no clip, no price on the divergence. One round cannot run away: no answer becomes more than n times as
    likely, and what is imitated lies at most log n - (n - 1)/n nats from the start. So take it first with a new reward, or
    where the score is a check that is passed or not. Take PPO to go further than n answers reach and to be held there:
    more rounds here begin again from what was learned, and nothing but their number keeps them near the start.
    weighting=reward and weighting=advantage learn from all n answers, each as its score deserves.

    Example:  [bold]handrail best_of_n best.yaml policy.path=runs/sft reward.model=runs/reward prompts.path=prompts.jsonl n=16[/]
    """
    return policy_stage("best_of_n", config, assignments)


@verb
def sample(config: Config, assignments: Assignments = None) -> dict:
    """Write responses of a model to prompts, K to each, as records for people or judges.

    A row depends on its prompt and its seed alone, so the same command writes the same file. With priority.reward, an
    ensemble, each prompt's responses carry how much there is to learn from people's word on them.

    Example:  [bold]handrail sample sample.yaml model.path=runs/sft prompts.path=prompts.jsonl responses=4[/]
    """
    cfg = settings("sample", config, assignments)
    from handrail.pipeline.stages import refuse_another
    from handrail.recipes import sample as recipe

    path = cfg.out  # type: ignore[attr-defined]
    refuse_another(Path(path).parent, cfg)
    records = recipe.run(cfg)  # type: ignore[arg-type]
    out.print(f"[green]✓[/] {len(records):,} responses in {path}")
    return {"stage": "sample", "out": path, "responses": len(records)}


@verb
def evaluate(config: Config, assignments: Assignments = None) -> dict:
    """Ask a judge whether the model after is better than the model before, on held-out prompts.

    The win rate comes with an interval, and with a control: the model before against itself. A judge is a Python function,
    a reward model, a language model at any OpenAI-compatible endpoint (judge.endpoint, judge.model) or people, who compare
    what stands in pairs.jsonl (people.path); of several each has its own row.

    Example:  [bold]handrail evaluate evaluate.yaml before.path=runs/sft after.path=runs/ppo reward=runs/reward[/]
    """
    cfg = settings("evaluate", config, assignments)
    from handrail.pipeline.stages import refuse_another
    from handrail.recipes import evaluate as recipe

    folder = Path(cfg.out)  # type: ignore[attr-defined]
    refuse_another(folder, cfg)
    summary = recipe.run(cfg)  # type: ignore[arg-type]
    out.print(panel(summary, "After against before"))
    if shown := example(lines(folder / "samples.jsonl")):
        out.print(shown)
    then = [(f"{folder / 'samples.jsonl'}", "every reply, before and after")]
    if any(judge["kind"] == "people" and not judge["rankings"] for judge in summary["judges"]):
        then.append((f"{folder / 'pairs.jsonl'}", "put it before people, then name their rankings: people.path=rankings.jsonl"))
    following(then)
    return {"stage": "evaluate", "folder": str(folder), "summary": summary}


@verb
def run(config: Whole, assignments: Assignments = None) -> dict:
    """Do a whole round from one file: SFT, reward model, PPO (or another `method`), evaluation, report.

    A finished stage is skipped while its settings and what it reads stay the same; an interrupted one goes on.

    Example:  [bold]handrail run handrail.yaml ppo.steps=50[/]
    """
    read_yaml(config)  # before the recipes are imported, which takes seconds
    with loading():
        from handrail.pipeline import Round

    given = assignments or []
    cfg = load(Round, config, given)
    return whole_round(cfg, (longer(cfg, config, given), "another setting; what it does not touch is kept"))


def longer(cfg: "Round", config: Path, given: list[str]) -> str:
    """The same command with twice the training of its policy."""
    setting, usual = ("epochs", 1) if cfg.method == "dpo" else ("steps", 25)
    key = f"{cfg.method}.{setting}"
    kept = [one for one in given if not one.startswith(f"{key}=")]
    return shlex.join(["handrail", "run", str(config), *kept, f"{key}={2 * getattr(cfg, cfg.method).get(setting, usual)}"])


def whole_round(cfg: "Round", then: tuple[str, str]) -> dict:
    """Do the round, show what came of it and what to type next, `then` at last, or the doctor where a stage is sick; return its
    summary."""
    from handrail import pipeline

    summary = pipeline.run(cfg)
    folder = Path(cfg.out)
    last = folder / f"round-{cfg.rounds}"
    start = folder / "round-1" / "sft"
    before = start if start.exists() else cfg.model.path
    tell_story(folder)
    if shown := example(lines(last / "evaluation" / "samples.jsonl")):
        out.print(shown)
    out.print(panel(summary, cfg.title or (cfg.task.name if cfg.task else "The round")))
    report_file = folder / "report.html"
    if sick := sickness(stages_of(folder)):
        out.print(Text(f"The doctor found {'; '.join(sick)}.", "red"))
        then = (shlex.join(["handrail", "doctor", str(folder)]), "what is wrong, why, and what to do: before more training")
    following(
        [
            (str(report_file), "the report: open it in a browser"),
            (f"handrail chat {before} {last / cfg.method}", "before and after, side by side"),
            then,
        ]
    )
    return {"folder": str(folder), "report": str(report_file), "summary": summary}


def tell_story(folder: Path) -> None:
    """A sentence a stage on what was learnt."""
    grid = Table.grid(padding=(0, 2))
    for name, stage in stages_of(folder):
        if sentence := learnt(name, stage):
            grid.add_row(Text(name, "bold"), sentence)
    out.print()
    out.print(grid)


@verb
def report(run: RunFolder, file: ReportFile = None, open_it: Open = False) -> dict:
    """Write one HTML file over a round, a run or a search: curves, accuracy, replies, one response token by token.

    The file opens from disk, offline, and prints.

    Example:  [bold]handrail report runs/demo-movie-night-0 --open[/]
    """
    from handrail.inspector import write_report

    target = file or run / "report.html"
    write_report(run, target)
    out.print(f"[green]✓[/] {target}")
    if open_it:
        webbrowser.open(target.resolve().as_uri())
    return {"report": str(target)}


@verb
def inspect(runs: Runs = Path("runs"), port: Port = 8001, db: Store = "", open_it: Open = False) -> dict:
    """Look at runs in the browser, also while they go on: curves, every sampled response, every token with its arithmetic.

    And at the labels behind them: how they come in, how far people agree, every item with who said what of it. The pages are
    for this machine alone, need no network, and change nothing in folders or stores.

    Example:  [bold]handrail inspect runs --open[/]
    """
    from handrail.inspector.server import serve

    def begun(where: str) -> None:
        out.print(f"[green]✓[/] {where}  [dim]Ctrl-C ends it[/]")
        if open_it:
            webbrowser.open(where)

    with suppress(KeyboardInterrupt):  # Ctrl-C is the way to end it
        serve(runs, port, begun, meant(db))
    return {"runs": str(runs)}
