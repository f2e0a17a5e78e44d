"""How pictures of graphs look: signs, borders and colours of each state, for light and for dark."""

from __future__ import annotations

from collections.abc import Mapping

SIGNS = {  # strokes around (0, 0), within a disc of radius 8
    "root": "M-2.6-2.6h5.2v5.2h-5.2z",
    "fresh": "M-3.6.3-1.1 2.8 3.7-2.7",
    "stale": "M0-4V0L2.8 1.8",
    "error": "M-2.8-2.8 2.8 2.8M2.8-2.8-2.8 2.8",
    "unbound": "M-2.3-1.7A2.3 2.3 0 1 1 0 .7V1.4M0 4v.1",
    "new": "M-3.4 0H3.4M0-3.4V3.4",
    "input": "M-2.6-2.6h5.2v5.2h-5.2z",
    "forward": "M-3 0H3M.4-2.6 3 0 .4 2.6",
    "backward": "M3 0H-3M-.4-2.6-3 0-.4 2.6",
    "optimizer": "M0 3.4V-3.4M-2.6-.6 0-3.4 2.6-.6",
    "": "M-3 0H3",  # a state that this picture does not know is shown by its word
}
BORDERS = {
    "error": "stroke-width:2.6",
    "stale": "stroke-dasharray:7 4",
    "unbound": "stroke-dasharray:1.5 4;stroke-linecap:round;stroke-width:2",
    "new": "stroke-dasharray:3 3",
}
LIGHT = {
    "panel": "#ffffff", "rim": "#d8dee6", "ink": "#1f2328", "soft": "#59636e", "way": "#8c959f",
    "heat": "#d1491b", "root": "#33608f", "fresh": "#1a7f45", "stale": "#9a5b00",
    "error": "#c21f2e", "unbound": "#7a43b6", "new": "#59636e",
    "input": "#33608f", "forward": "#1a7f45", "backward": "#9a5b00", "optimizer": "#7a43b6",
}  # fmt: skip
DARK = {
    "panel": "#12161c", "rim": "#323a45", "ink": "#e6edf3", "soft": "#9da7b3", "way": "#6b7683",
    "heat": "#ff8a5c", "root": "#79a9dd", "fresh": "#4cc27f", "stale": "#e5a23c",
    "error": "#ff7b7b", "unbound": "#b992f5", "new": "#9da7b3",
    "input": "#79a9dd", "forward": "#4cc27f", "backward": "#e5a23c", "optimizer": "#b992f5",
}  # fmt: skip
SANS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"


def _style() -> str:
    def rules(scope: str, colours: Mapping[str, str]) -> str:
        plain = {
            ".panel": f"fill:{colours['panel']};stroke:{colours['rim']}",
            "text": f"fill:{colours['ink']}",
            ".soft,{0} .mono": f"fill:{colours['soft']}",
            ".sign": f"stroke:{colours['panel']}",
            ".way": f"stroke:{colours['way']}",
            ".tip": f"fill:{colours['way']}",
            ".track": f"fill:{colours['rim']}",
            ".heat,{0} .hot": f"fill:{colours['heat']}",
            ".way.stale": f"stroke:{colours['stale']}",
            ".tip.stale,{0} .warn": f"fill:{colours['stale']}",
        }
        states = {f".{name}": f"color:{colours[name]}" for name in SIGNS if name}
        return "".join(
            f"{scope} {selector.format(scope)}{{{body}}}"
            for selector, body in (plain | states).items()
        )

    own = ".mmsb-graph"
    shape = (
        f"{own} text{{font:11px {SANS};white-space:pre}}"
        f"{own} .name{{font-size:13px;font-weight:600}}{own} .mono{{font-family:{MONO}}}"
        f"{own} .end{{text-anchor:end}}"
        f"{own} .box{{fill:currentColor;fill-opacity:.09;stroke:currentColor;stroke-width:1.4}}"
        f"{own} .disc{{fill:currentColor}}{own} .way{{fill:none;stroke-width:1.4}}"
        f"{own} .sign{{fill:none;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}}"
    )
    borders = "".join(f"{own} .{name} .box{{{body}}}" for name, body in BORDERS.items())
    # A notebook says by an attribute whether it is dark; elsewhere the system does.
    return (
        f"<style>{shape}{borders}{rules(own, LIGHT)}"
        f"@media (prefers-color-scheme:dark){{{rules(own, DARK)}}}"
        f"{rules(f'[data-jp-theme-light=true] {own}', LIGHT)}"
        f"{rules(f'[data-jp-theme-light=false] {own}', DARK)}</style>"
    )


STYLE = _style()
