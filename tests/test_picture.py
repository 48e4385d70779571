"""net.plot(): the graph as SVG."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from random_graphs import Seeded, graph

import bpcore as bp

SVG = "{http://www.w3.org/2000/svg}"


def parsed(net):
    """Boxes (left, top, width, height) and texts by layer, and edges as lists of points and the lines to them."""
    root = ElementTree.fromstring(str(net.plot()))
    boxes, texts = {}, {}
    for group in root.iter(f"{SVG}g"):
        name = group.find(f"{SVG}title").text.partition(": ")[0]
        boxes[name] = [float(group.find(f"{SVG}rect").get(key)) for key in ("x", "y", "width", "height")]
        texts[name] = [text.text for text in group.iter(f"{SVG}text")]
    edges = []
    for path in root.iter(f"{SVG}path"):
        if path.get("class") == "edge":
            x, points = None, []
            for letter, numbers in re.findall(r"([MCV])([-\d. ]+)", path.get("d")):
                numbers = [float(number) for number in numbers.split()]
                x, y = (x, numbers[0]) if letter == "V" else numbers[-2:]
                points.append((x, y, letter))
            edges.append(points)
    return root, boxes, texts, edges


def check(net):
    """What holds of every picture."""
    root, boxes, texts, edges = parsed(net)
    nodes = net._model.graph.nodes
    assert list(boxes) == [node.name for node in nodes]
    width, height = float(root.get("width")), float(root.get("height"))
    corners = list(boxes.values())
    for k, (x, y, w, h) in enumerate(corners):
        assert x > 0 and x + w < width + 0.5 and y > 0 and y + h < height
        for x2, y2, w2, _ in corners[:k]:
            assert y != y2 or x + w < x2 or x2 + w2 < x  # side by side
    for group in root.iter(f"{SVG}g"):
        lines = {}
        for text in group.iter(f"{SVG}text"):
            lines[text.get("y")] = lines.get(text.get("y"), "") + text.text
        assert 7.25 * max(map(len, lines.values())) < float(group.find(f"{SVG}rect").get("width")) - 20
    wanted = [(k, i) for i, node in enumerate(nodes) for k in dict.fromkeys(node.inputs)]
    assert len(edges) == len(wanted)
    for (k, i), points in zip(wanted, edges, strict=True):
        above, below = corners[k], corners[i]
        assert above[1] < below[1]  # what is read stands above
        assert points[0][0] == pytest.approx(above[0] + above[2] / 2, abs=0.11)
        assert points[0][1] == pytest.approx(above[1] + above[3])
        assert points[-1][0] == pytest.approx(below[0] + below[2] / 2, abs=0.11) and points[-1][1] < below[1]
        for (x, top, _), (_, end, letter) in zip(points, points[1:], strict=False):
            if letter == "V":  # no line runs through a box
                for left, y, w, h in corners:
                    assert not (left - 1 < x < left + w + 1 and top < y + h - 1 and y + 1 < end), (k, i)
    return boxes, texts


def attention():
    x = bp.Input((10, 16), name="tokens")
    h = bp.LayerNorm()(x + bp.MultiHeadAttention(2, 8, name="at")(x))
    twice = bp.Dense(16, "relu", name="twice")
    h = bp.Bidirectional(bp.LSTM(8), name="both")(twice(twice(h)))
    return bp.Network(x, [bp.Dense(3, "softmax", name="class")(h), bp.Dense(1)(h)])


def test_a_chain_is_a_column():
    net = bp.Network([bp.Input((28, 28, 1)), bp.Conv2D(6, 5, "relu"), bp.Reshape(-1), bp.Dense(1200)], seed=0)
    boxes, texts = check(net)
    assert np.ptp([x + w / 2 for x, _, w, _ in boxes.values()]) < 0.2
    assert len({y for _, y, _, _ in boxes.values()}) == 4
    assert texts["conv2d_1"] == ["conv2d_1", "relu", "24 × 24 × 6", "156"]
    assert texts["dense_1"] == ["dense_1", "1200", "4,148,400"] and "4,148,556 parameters, float32" in str(net.plot())


def test_branches_shared_layers_and_parts_of_composed_ones():
    net = attention()
    boxes, texts = check(net)
    assert texts["twice"] == ["twice", "Dense relu", "10 × 16", "272"] and texts["twice@2"][-1] == "shared"
    assert texts["at_query"][-1] == "272" and texts["both_backward"] == ["both_backward", "LSTM", "8", "800"]
    svg = str(net.plot())
    assert svg.count('class="box output"') == 2 and svg.count('class="box shared"') == 1
    main = ["at_output", "add_2", "layer_norm_1", "twice", "twice@2"]  # stands in line, whatever goes round it
    assert np.ptp([boxes[name][0] + boxes[name][2] / 2 for name in main]) < 0.2
    net.frozen = {"twice"}
    texts = check(net)[1]
    assert texts["twice"][-1] == "272 frozen" and texts["twice@2"][-1] == "shared frozen"


def test_several_inputs_stand_near_to_what_reads_them():
    a, b = bp.Input(4, name="early"), bp.Input(3, name="late")
    h = bp.Dense(4)(bp.Dense(4)(bp.Dense(4)(a)))
    net = bp.Network([a, b], bp.Dense(2)(bp.concat([h, b])))
    boxes, _ = check(net)
    assert boxes["late"][1] == boxes["dense_3"][1] > boxes["early"][1]


def test_edges_do_not_cross_where_they_need_not():
    inputs = [bp.Input(2, name=f"in_{k}") for k in range(4)]
    turned = [3, 1, 0, 2]
    first = [bp.Dense(2, name=f"first_{k}")(inputs[k]) for k in turned]
    last = [bp.Dense(2, name=f"last_{k}")(first[turned.index(k)]) for k in (1, 0, 3, 2)]
    boxes, _ = check(bp.Network(inputs, last))
    for k in range(4):
        middles = [boxes[f"{row}_{k}"][0] + boxes[f"{row}_{k}"][2] / 2 for row in ("in", "first", "last")]
        assert np.ptp(middles) < 0.2


def test_any_graph():
    for case in filter(None, (graph(Seeded(seed), most=14) for seed in range(20))):
        check(case.net)


def test_names_are_escaped_and_long_ones_cut():
    names = ["<script>alert(1)<b>", "a&\"b'", "\x00\x1b[31m\u202e", "x" * 500, "層" * 20]
    x = bp.Input(3, name=names[0])
    net = bp.Network(x, [bp.Dense(1, name=name)(x) for name in names[1:]])
    svg = str(net.plot())
    root = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} == {
        "svg", "style", "g", "title", "rect", "text", "path"
    }  # fmt: skip
    assert svg.isascii() or not set("\x00\x1b\u202e") & set(svg)
    shown = [group.findall(f"{SVG}text")[0].text for group in root.iter(f"{SVG}g")]
    assert shown == [*names[:2], "\ufffd\ufffd[31m\ufffd", "x" * 31 + "…", names[4]]
    wide = [float(group.find(f"{SVG}rect").get("width")) for group in root.iter(f"{SVG}g")]
    assert max(wide) < 400 and wide[4] > 20 * 2 * 7


def test_notebooks_and_files(tmp_path):
    net = attention()
    theta, rng = net.theta.tobytes(), np.random.get_state()[1].tobytes()
    picture = net.plot(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == picture.svg == str(picture) == picture._repr_svg_()
    assert repr(picture).startswith("<Picture, ") and net.plot() == picture
    assert (net.theta.tobytes(), np.random.get_state()[1].tobytes()) == (theta, rng)
    with pytest.raises(TypeError, match="path: expected a file name, got 5 of type int"):
        net.plot(5)
    with pytest.raises(TypeError, match="to_file: bpcore calls it path"):
        net.plot(to_file="net.svg")
    with pytest.raises(ValueError, match=r"ends in \.svg, .* got 'net.png'"):
        net.plot(tmp_path / "net.png")
    assert not (tmp_path / "net.png").exists()
    with pytest.raises(FileNotFoundError):
        net.plot(tmp_path / "none" / "net.svg")
    for theme in (":dark", ""):  # text and boxes have colours of their own in both
        style = picture.svg.partition(f"prefers-color-scheme{theme}")[2 if theme else 0]
        assert re.search(r"text\{[^}]*fill:#", style) and re.search(r"\.box\{fill:#", style)
