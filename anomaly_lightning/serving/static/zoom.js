"use strict";
// An element in its frame: the wheel and two fingers zoom about their place, dragging moves, keys are up to the caller.

class Zoom {
  static MOST = 32;

  constructor(frame, stage) {
    Object.assign(this, { frame, stage, scale: 1, x: 0, y: 0, fingers: new Map() });
    frame.addEventListener("wheel", event => this.wheel(event), { passive: false });
    frame.addEventListener("dblclick", event => this.scale > 1 ? this.fit() : this.by(4, event.clientX, event.clientY));
    frame.addEventListener("pointerdown", event => this.down(event));
    frame.addEventListener("pointermove", event => this.move(event));
    for (const kind of ["pointerup", "pointercancel"]) frame.addEventListener(kind, event => this.fingers.delete(event.pointerId));
  }

  fit() {
    Object.assign(this, { scale: 1, x: 0, y: 0 });
    this.apply();
  }

  // Zoom by a factor about a place on the screen; without one about the middle.
  by(factor, clientX, clientY) {
    const box = this.frame.getBoundingClientRect();
    const x = (clientX ?? box.left + box.width / 2) - box.left - box.width / 2;
    const y = (clientY ?? box.top + box.height / 2) - box.top - box.height / 2;
    const scale = Math.max(1, Math.min(Zoom.MOST, this.scale * factor)), step = scale / this.scale;
    Object.assign(this, { scale, x: x - (x - this.x) * step, y: y - (y - this.y) * step });
    this.apply();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.apply();
  }

  apply() {
    const reach = side => Math.max(0, (this.stage[`offset${side}`] * this.scale - this.frame[`client${side}`]) / 2);
    const [across, down] = [reach("Width"), reach("Height")];
    this.x = Math.max(-across, Math.min(across, this.x));
    this.y = Math.max(-down, Math.min(down, this.y));
    this.stage.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.stage.classList.toggle("pixels", this.scale >= 4);
    this.frame.classList.toggle("zoomed", this.scale > 1);
  }

  wheel(event) {
    event.preventDefault();
    this.by(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event.clientX, event.clientY);
  }

  down(event) {
    if (event.target.closest("button")) return;
    this.fingers.set(event.pointerId, event);
    this.frame.setPointerCapture(event.pointerId);
  }

  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    if (this.fingers.size === 1) this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    else {
      const other = [...this.fingers.values()].find(finger => finger.pointerId !== event.pointerId);
      const apart = finger => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) || 1;
      this.by(apart(event) / apart(before), (event.clientX + other.clientX) / 2, (event.clientY + other.clientY) / 2);
    }
    this.fingers.set(event.pointerId, event);
  }
}
