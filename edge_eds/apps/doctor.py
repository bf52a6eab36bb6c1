"""`edge-eds doctor`: whether everything that edge-eds needs is there and works; the looking is in diagnosis.py."""

from __future__ import annotations

import typer

from edge_eds.apps import options


def command(
    model: options.Model = None,
    lora: options.Lora = None,
    energy: options.Energy = "auto",
    as_json: options.Json = False,
    out: options.Out = None,
) -> None:
    """Check this installation, and say what to do about what is wrong.

    Versions, CPU, llama.cpp and its backends, folders, the model and its energies, and a self-test of about two seconds
    that decodes, reads and steers for real. No network is used, unless MODEL is on a hub. Exit status 1 where something
    is wrong.
    """
    from edge_eds.apps.diagnosis import PROBLEM, diagnose
    from edge_eds.apps.terminal import Terminal, finish

    findings = []
    terminal = Terminal(answers_on_stderr=as_json)
    styles = {"ok": "green", "remark": "yellow", PROBLEM: "bold red"}
    for finding in diagnose(model, lora, energy):
        findings.append(finding)
        if not as_json:
            terminal.show(f"{finding.status:8} {finding.name:12} {finding.text}", styles[finding.status])
            if finding.advice:
                terminal.show(f"{'':22}{finding.advice}")
    wrong = [finding.name for finding in findings if finding.status == PROBLEM]
    if not as_json:
        terminal.show("everything works" if not wrong else f"wrong: {', '.join(wrong)}", style="bold")
    document = {"ok": not wrong, "findings": [finding.document() for finding in findings]}
    finish(document, as_json, out)
    if wrong:
        raise typer.Exit(1)
