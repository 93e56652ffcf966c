"""Images in a request: one as the body itself, or several as the files of a form."""

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from anomaly_lightning.serving.problems import Problem


async def images(request: Request, max_images: int, max_bytes: int) -> list[tuple[str, bytes]]:
    """Name and content of each image that a request carries; the content decides what it is, not its declared type.

    Raises:
        Problem: No file, a form field that is none, too many, or a form that is broken.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "Expected a body without Content-Encoding: images are compressed already.")
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return [("image", await request.body())]
    return await _files(request, max_images, max_bytes)


async def _files(request: Request, max_images: int, max_bytes: int) -> list[tuple[str, bytes]]:
    parser = MultiPartParser(request.headers, request.stream())
    parser.spool_max_size = max_bytes  # in memory, which the queue bounds; a read-only container has no other place
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise Problem(400, f"The form can't be read: {getattr(error, 'message', error)}") from error
    try:
        fields = form.multi_items()
        files = [value for _, value in fields if isinstance(value, UploadFile)]
        if others := [name for name, value in fields if not isinstance(value, UploadFile)]:
            raise Problem(422, f"Form field {others[0]!r} is no file. Options go into the URL: ?heatmap=overlay")
        if not files:
            raise Problem(422, "Expected one or several images as files of the form, got none.")
        if len(files) > max_images:
            raise Problem(413, f"Expected at most {max_images} images a request (max_images), got {len(files)}.")
        return [(file.filename or "image", await file.read()) for file in files]
    finally:
        await form.close()
