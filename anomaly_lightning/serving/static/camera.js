"use strict";
// ---- The camera -----------------------------------------------------------------------------------------------------

let opening = 0;
async function openCamera(id) {
  trouble("");
  if (!navigator.mediaDevices) {
    trouble("Browsers let a page use the camera only at https:// or http://localhost.");
    return;
  }
  closeCamera();
  const mine = ++opening;
  try {
    const video = { width: { ideal: 1920 }, height: { ideal: 1080 }, ...(id ? { deviceId: { exact: id } } : { facingMode: "environment" }) };
    const stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    if (mine !== opening) return stream.getTracks().forEach(track => track.stop());  // asked for again meanwhile
    state.stream = stream;
  } catch (error) {
    trouble(error.name === "NotAllowedError" ? "The browser was not allowed to use the camera." : `No camera: ${error.message}`);
    return;
  }
  $("video").srcObject = state.stream;
  $("camera").hidden = false;
  $("camera-on").hidden = true;
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter(device => device.kind === "videoinput");
  $("cameras").replaceChildren(...cameras.map((device, index) => new Option(device.label || `Camera ${index + 1}`, device.deviceId)));
  $("cameras").value = state.stream.getVideoTracks()[0].getSettings().deviceId ?? "";
  $("cameras").hidden = cameras.length < 2;
  $("shoot").focus();
}

function closeCamera() {
  state.stream?.getTracks().forEach(track => track.stop());
  state.stream = null;
  $("again").checked = false;
  $("camera").hidden = true;
  $("camera-on").hidden = false;
}

// As PNG: what JPEG leaves out can be the defect.
async function shoot() {
  const video = $("video"), canvas = document.createElement("canvas");
  if (!video.videoWidth) return;
  $("shoot").disabled = true;
  do {
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
    const name = `camera ${new Date().toLocaleTimeString()}.png`;
    try {
      const said = await one(blob, name);
      say(`${name}: ${said.verdict}`);
      trouble("");
    } catch (error) {
      trouble(failure(name, error));
    }
    if ($("again").checked) await sleep(PAUSE_MS);
  } while ($("again").checked && state.stream);
  $("shoot").disabled = false;
}
