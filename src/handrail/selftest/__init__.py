"""Proof on the user's own machine that the mathematics and the recipes are right.

enumerated    a language whose responses can all be written down: its objective, gradient and best policy, exactly
roles         tables that play policy, critic, reward model and engine on it
loops         the recipes' own loops on those tables: `run_loop`, `expected_gradient`
tiny          a real transformer over five tokens, for everything that tables cannot show
resume        a run that is killed by force and started again
checks        what `handrail selftest` looks at
"""
