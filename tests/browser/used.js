// Uses every control of the page and leaves what it saw at its end, as JSON.
{
addEventListener("error", event => { document.title = "error: " + event.message; });
const picture = id => {
  const svg = document.querySelector(`#${id} svg`);
  return { caption: document.querySelector(`#${id} figcaption`).textContent, dots: svg.querySelectorAll("circle").length,
    lines: [...svg.querySelectorAll("polyline")].map(line => line.getAttribute("points")),
    texts: [...svg.querySelectorAll("text")].map(text => text.textContent), bands: svg.querySelectorAll(".band").length };
};
const all = () => Object.fromEntries(["path", "successive", "pairs", "lengths"].map(id => [id, picture(id)]));
const told = {};
told.first = all();
document.getElementById("turn").click();
told.flat = all();
document.getElementById("unit").click();
told.angles = all();
document.getElementById("unit").click();
document.querySelector("#all tbody tr:nth-child(2)").click();
told.tensor = all();
told.chosen = document.getElementById("tensor").selectedOptions[0].text;
document.getElementById("turn").click();
const svg = document.querySelector("#path svg");
svg.setPointerCapture = () => {};
SVGElement.prototype.setPointerCapture = () => {};
const pointer = (type, x, y) => new PointerEvent(type, { pointerId: 1, clientX: x, clientY: y, bubbles: true });
svg.dispatchEvent(pointer("pointerdown", 100, 100));
const before = picture("path").lines;
svg.dispatchEvent(pointer("pointermove", 160, 130));
told.turned = JSON.stringify(before) !== JSON.stringify(picture("path").lines);
const maps = document.getElementById("map");
told.maps = [...maps.options].map(option => option.value);
document.getElementById("tensor").value = 0; document.getElementById("tensor").onchange({ target: { value: 0 } });
maps.value = told.maps.at(-1); maps.onchange({ target: maps });
told.mapped = all();
told.rows = document.querySelectorAll("#all tbody tr").length;
const wide = document.documentElement.scrollWidth;
told.overflow = wide - document.documentElement.clientWidth;
const said = document.createElement("pre"); said.id = "told"; said.textContent = JSON.stringify(told);
document.body.append(said);
}
