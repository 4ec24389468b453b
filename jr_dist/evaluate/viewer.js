// Turns the three objects of a gallery item (source, deformed, target), each about its own centre, all together.
//
// One canvas for the whole page, moved into the item that a person opens. An item's data-glb holds a GLB, base64, as
// side_by_side.py writes it: float32 positions, uint32 indices, a base colour a mesh, points with a colour each, and no
// transform below the three named nodes. Camera, light and colours are those of the pictures (data/render.py). Nothing
// is loaded. Without WebGL 2 the pictures stay, and the item says so.
"use strict";
(() => {
  const NAMES = ["source", "deformed", "target"];
  const START = { azimuth: 35, elevation: 20, distance: 3 }; // degrees; canonical units
  const FOCAL = 1 / Math.tan((20 * Math.PI) / 180); // a field of view of 40 degrees
  const NEAR = 0.05, FAR = 50, DOT = 0.02; // DOT: radius of a point, canonical units
  const POINTS = 0; // the mode of a primitive, as glTF has it; all others are triangles

  const VERTEX = `#version 300 es
    in vec3 position; in vec3 colour;
    uniform mat4 camera; uniform vec3 backward; uniform float diameter;
    out vec3 place, paint; out float cue;
    void main() {
      place = position; paint = colour;
      gl_Position = camera * vec4(position, 1.0);
      gl_PointSize = max(2.0, diameter / gl_Position.w);
      cue = clamp(1.0 + 0.3 * dot(position, backward), 0.55, 1.3); // near points brighter
    }`;
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 place, paint; in float cue;
    uniform vec3 backward, light; uniform float away; uniform bool points;
    out vec4 shown;
    void main() {
      if (points) {
        if (length(gl_PointCoord - 0.5) > 0.5) discard;
        shown = vec4(paint * cue, 1.0);
        return;
      }
      vec3 normal = normalize(cross(dFdx(place), dFdy(place))); // flat; lit from the side we see
      if (dot(normal, backward * away - place) < 0.0) normal = -normal;
      float ambient = 0.42 * (0.85 + 0.25 * normal.y);
      shown = vec4(paint * (ambient + 0.62 * max(dot(normal, light), 0.0)), 1.0);
    }`;

  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("aria-label", "source, deformed and target; drag or arrow keys turn, + and - zoom, 0 resets");
  let gl = null, program = null, meshes = null, turn = { ...START }, opened = null, last = null;

  function start() {
    gl = canvas.getContext("webgl2", { antialias: true, alpha: true });
    if (!gl || gl.isContextLost()) return false;
    program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "position");
    gl.bindAttribLocation(program, 1, "colour");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return false;
    gl.useProgram(program);
    [gl.DEPTH_TEST, gl.SCISSOR_TEST].forEach((test) => gl.enable(test));
    return true;
  }

  // {name: [{mode, array, count, colour}]} of a GLB, uploaded.
  function upload(base64) {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer;
    const length = new DataView(bytes).getUint32(12, true);
    const tree = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 20, length)));
    const read = (index, Kind, width) => {
      const { bufferView, byteOffset = 0, count } = tree.accessors[index];
      const from = 28 + length + (tree.bufferViews[bufferView].byteOffset || 0) + byteOffset;
      return new Kind(bytes.slice(from, from + count * width * Kind.BYTES_PER_ELEMENT));
    };
    const buffer = (target, data) => {
      gl.bindBuffer(target, gl.createBuffer());
      gl.bufferData(target, data, gl.STATIC_DRAW);
    };
    const primitive = ({ mode, attributes, indices, material }) => {
      const array = gl.createVertexArray(), positions = read(attributes.POSITION, Float32Array, 3);
      gl.bindVertexArray(array);
      buffer(gl.ARRAY_BUFFER, positions);
      gl.enableVertexAttribArray(0);
      gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
      if (mode === POINTS) {
        buffer(gl.ARRAY_BUFFER, read(attributes.COLOR_0, Uint8Array, 4));
        gl.enableVertexAttribArray(1);
        gl.vertexAttribPointer(1, 3, gl.UNSIGNED_BYTE, true, 4, 0);
        return { mode, array, count: positions.length / 3 };
      }
      const faces = read(indices, Uint32Array, 1);
      buffer(gl.ELEMENT_ARRAY_BUFFER, faces);
      return { mode, array, count: faces.length, colour: tree.materials[material].pbrMetallicRoughness.baseColorFactor };
    };
    const below = ({ mesh, children = [] }) => [
      ...(mesh === undefined ? [] : tree.meshes[mesh].primitives.map(primitive)),
      ...children.flatMap((child) => below(tree.nodes[child])),
    ];
    return Object.fromEntries(NAMES.map((name) => [name, below(tree.nodes.find((node) => node.name === name))]));
  }

  function draw() {
    if (!opened || !canvas.clientWidth) return;
    const scale = Math.min(window.devicePixelRatio || 1, 2);
    [canvas.width, canvas.height] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.round(x * scale));
    const a = (turn.azimuth * Math.PI) / 180, e = (turn.elevation * Math.PI) / 180, d = turn.distance;
    const right = [Math.cos(a), 0, -Math.sin(a)];
    const up = [-Math.sin(e) * Math.sin(a), Math.cos(e), -Math.sin(e) * Math.cos(a)];
    const back = [Math.cos(e) * Math.sin(a), Math.sin(e), Math.cos(e) * Math.cos(a)];
    const above = back.map((x, i) => x + 0.6 * up[i]), size = Math.hypot(...above);
    const width = Math.floor(canvas.width / NAMES.length), height = canvas.height;
    const x = FOCAL * Math.min(1, height / width), y = FOCAL * Math.min(1, width / height);
    const depth = -(FAR + NEAR) / (FAR - NEAR), shift = (-2 * FAR * NEAR) / (FAR - NEAR);
    const columns = [0, 1, 2].flatMap((i) => [x * right[i], y * up[i], depth * back[i], -back[i]]);
    const at = (name) => gl.getUniformLocation(program, name);
    gl.uniformMatrix4fv(at("camera"), false, [...columns, 0, 0, shift - depth * d, d]);
    gl.uniform3fv(at("backward"), back);
    gl.uniform3fv(at("light"), above.map((v) => v / size));
    gl.uniform1f(at("away"), d);
    gl.uniform1f(at("diameter"), DOT * y * height);
    NAMES.forEach((name, i) => {
      gl.viewport(i * width, 0, width, height);
      gl.scissor(i * width, 0, width, height);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      for (const { mode, array, count, colour } of meshes[name]) {
        gl.bindVertexArray(array);
        gl.uniform1i(at("points"), mode === POINTS ? 1 : 0);
        if (colour) gl.vertexAttrib3fv(1, colour.slice(0, 3));
        if (mode === POINTS) gl.drawArrays(gl.POINTS, 0, count);
        else gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
      }
    });
  }

  function change(by) {
    if (by.reset) turn = { ...START };
    turn.azimuth += by.azimuth || 0;
    turn.elevation = Math.max(-89, Math.min(89, turn.elevation + (by.elevation || 0)));
    turn.distance = Math.max(1.3, Math.min(9, turn.distance * (by.zoom || 1)));
    requestAnimationFrame(draw);
  }

  function close() {
    if (!opened) return;
    opened.classList.remove("open");
    opened.querySelector(".turn").setAttribute("aria-expanded", "false");
    for (const { array } of Object.values(meshes).flat()) gl.deleteVertexArray(array); // nothing else holds its buffers
    opened = meshes = null;
  }

  function open(item) {
    close();
    if (!gl && !start()) {
      item.querySelector(".turn").replaceWith("WebGL 2 can't be had here: the pictures are all there is to see.");
      return;
    }
    meshes = upload(item.querySelector(".stage").dataset.glb);
    item.querySelector(".stage").prepend(canvas);
    item.classList.add("open");
    item.querySelector(".turn").setAttribute("aria-expanded", "true");
    opened = item;
    canvas.focus({ preventScroll: true });
    change(STEPS[0]);
  }

  const STEPS = {
    ArrowLeft: { azimuth: 10 }, ArrowRight: { azimuth: -10 }, ArrowUp: { elevation: -10 }, ArrowDown: { elevation: 10 },
    "+": { zoom: 0.9 }, "-": { zoom: 1 / 0.9 }, 0: { reset: true },
  };
  canvas.addEventListener("keydown", (event) => {
    if (!STEPS[event.key]) return;
    event.preventDefault();
    change(STEPS[event.key]);
  });
  canvas.addEventListener("pointerdown", (event) => {
    last = event;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons && last) change({ azimuth: (last.x - event.x) / 2, elevation: (event.y - last.y) / 2 });
    last = event;
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    change({ zoom: Math.exp(event.deltaY / 1000) });
  }, { passive: false });
  canvas.addEventListener("dblclick", () => change(STEPS[0]));
  canvas.addEventListener("webglcontextlost", () => {
    close();
    gl = null;
  });
  new ResizeObserver(draw).observe(canvas);
  for (const button of document.querySelectorAll(".turn")) {
    const item = button.closest(".item");
    const toggle = () => (item === opened ? close() : open(item));
    item.querySelectorAll(".turn, img").forEach((part) => part.addEventListener("click", toggle));
    if (location.hash === "#" + item.id) open(item); // a link to an item opens it
  }
})();
