"""A report as one HTML file that needs nothing else: no script, no request, light and dark, from a phone to a desk."""

from __future__ import annotations

from html import escape

from jobonnx_bench.recommend import recommend
from jobonnx_bench.render.plots import Plot, plots
from jobonnx_bench.render.tables import Table, environment, headline, tables
from jobonnx_bench.report import Report

_STYLE = """
:root{color-scheme:light dark;--text:#1b1f24;--soft:#5b6470;--line:#d5dae1;--card:#f5f7f9;--back:#fff;--accent:#2563eb}
@media(prefers-color-scheme:dark){:root{--text:#e6e9ed;--soft:#9aa4b1;--line:#3a424d;--card:#1c2128;--back:#12161b;--accent:#7aa5ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:clamp(1.5rem,4.5vw,2.2rem);line-height:1.2;margin:0 0 .4rem;overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:1.2rem;margin:2.6rem 0 .5rem}
p{margin:.4rem 0}
.soft,.note{color:var(--soft);font-size:.9rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:1rem;margin:1.5rem 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem 1.1rem}
.card h3{margin:0;font-size:.78rem;letter-spacing:.06em;text-transform:uppercase;color:var(--soft);font-weight:600}
.card .pick{font-size:1.25rem;font-weight:650;margin:.15rem 0 0}
.card .figure{color:var(--accent);font-weight:600;margin:0 0 .4rem}
.card .why{font-size:.88rem;color:var(--soft);margin:0}
figure{margin:0}
svg{width:100%;height:auto;display:block}
svg text{font-family:inherit!important}
.narrow{display:none}
.scroll{overflow-x:auto;-webkit-overflow-scrolling:touch;border:1px solid var(--line);border-radius:10px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.88rem;font-variant-numeric:tabular-nums}
th,td{padding:7px .5rem;line-height:21px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;background:var(--card)}
tbody tr:last-child>*{border-bottom:0}
.name{text-align:left;font-weight:600}
td.name+td.name{font-weight:400}
.long tr>:last-child{white-space:normal;min-width:17rem;overflow-wrap:anywhere}.long td:last-child{font-weight:400}
@media(max-width:640px){main{padding:1.5rem 1rem 3rem}.wide{display:none}.narrow{display:block}
.scroll:not(.long) .name:first-child{position:sticky;left:0;background:var(--back)}
.scroll:not(.long) thead .name:first-child{background:var(--card)}
.long th,.long td{font-size:.8rem;vertical-align:top}
.long tr>:last-child{min-width:9.5rem;width:60%}.long .name{white-space:normal}}
"""


def report_html(report: Report) -> str:
    """Write the complete file. Whatever comes from outside (names, paths, messages of libraries) is escaped. Needs matplotlib."""
    title = escape(headline(report))
    e, w = report.environment, report.workload
    features = ", ".join(name for name, present in e.features.items() if present)
    lead = f"{w.titles:,} distinct titles of {w.tokens / w.titles:.1f} tokens, measured by jobonnx bench on {e.date[:10]}"
    lead += f"; processor features: {features}" if features else ""
    sections = [_figure(plot) for plot in plots(report)]
    sections += [_section(table) for table in [*tables(report), environment(report)]]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n'
        f'<header><h1>{title}</h1>\n<p class="soft">{escape(lead)}.</p></header>\n'
        f"{_recommendation(report)}\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


def _recommendation(report: Report) -> str:
    cards = [
        f'<div class="card"><h3>For {escape(r.use)}</h3><p class="pick">{escape(r.variant)} on {escape(r.provider)}</p>'
        f'<p class="figure">{escape(r.figure)}</p><p class="why">{escape(r.why[:1].upper() + r.why[1:])}</p></div>'
        for r in recommend(report)
    ]
    if not cards:
        return '<p class="card">No recommendation: no system was measured to the end and is within its tolerances.</p>'
    return f'<section class="cards" aria-label="Recommendation">\n{"".join(cards)}\n</section>'


def _figure(plot: Plot) -> str:
    return (
        f'<section><h2>{escape(plot.title)}</h2><p class="note">{escape(plot.note)}</p>\n'
        f'<figure class="wide">{plot.wide}</figure><figure class="narrow">{plot.narrow}</figure></section>'
    )


def _section(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        classes = [' class="name"' if place < table.labels else "" for place in range(len(cells))]
        return "<tr>" + "".join(f"<{tag}{c}>{escape(cell)}</{tag}>" for c, cell in zip(classes, cells, strict=True)) + "</tr>"

    head = f"<thead>{row(table.header, 'th')}</thead>" if any(table.header) else ""
    body = "".join(row(cells, "td") for cells in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<section><h2>{escape(table.heading)}</h2>{note}\n<div class="scroll{" long" if table.prose else ""}" tabindex="0">'
        f"<table>{head}<tbody>{body}</tbody></table></div></section>"
    )
