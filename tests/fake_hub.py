"""A local server that speaks the Hub's protocol as far as uploads and snapshots need it. It stores what it is sent."""

import base64
import contextlib
import hashlib
import json
import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_" + "x" * 34


class FakeHub:
    """Repositories in memory: ``repos[name][branch][path]`` is a file's content. ``requests`` are all that came."""

    def __init__(self):
        self.repos, self.private, self.blobs, self.commits, self.requests = {}, {}, {}, [], []
        self.refuse = None  # (status, message) with which commits are refused
        self.url = ""
        repo, rev = "/api/models/{owner}/{name}", "/{rev}"
        self.app = Starlette(
            routes=[
                self._route("/api/whoami-v2", self.whoami, "GET"),
                self._route("/api/repos/create", self.create, "POST"),
                self._route("/api/validate-yaml", self.validate, "POST"),
                self._route(f"{repo}/preupload{rev}", self.preupload, "POST"),
                self._route(f"{repo}/commit{rev}", self.commit, "POST"),
                self._route(f"{repo}/branch{rev}", self.branch, "POST"),
                self._route(f"{repo}/revision{rev}", self.info, "GET"),
                self._route(f"{repo}/tree{rev}", self.tree, "GET"),
                self._route(repo, self.info, "GET"),
                self._route("/{owner}/{name}.git/info/lfs/objects/batch", self.lfs_batch, "POST"),
                self._route("/lfs/verify", self.lfs_verify, "POST"),
                self._route("/lfs/{oid}", self.lfs_put, "PUT"),
                self._route("/{owner}/{name}/resolve/{rev}/{path:path}", self.resolve, "GET"),
            ]
        )

    def _route(self, path, function, method):
        async def endpoint(request):
            self.requests.append((request.method, request.url.path))
            signed = request.headers.get("authorization") == f"Bearer {TOKEN}"
            if not signed and not path.startswith("/lfs/"):  # as on the Hub: addresses for uploads are signed
                return JSONResponse({"error": "Invalid username or password."}, 401)
            return await function(request)

        return Route(path, endpoint, methods=[method])

    @staticmethod
    def _repo(request):
        return f"{request.path_params['owner']}/{request.path_params['name']}"

    def _branch(self, request):
        """The files of the branch that a request names, or of the commit (whose name here is that of the branch)."""
        branches = self.repos.get(self._repo(request))
        rev = request.path_params.get("rev", "main")
        for branch, files in (branches or {}).items():
            if rev in (branch, self._sha(files)):
                return files
        return None

    @staticmethod
    def _sha(files):
        digest = hashlib.sha1()
        for path, content in sorted(files.items()):
            digest.update(path.encode() + content)
        return digest.hexdigest()

    async def whoami(self, request):
        return JSONResponse({"name": "owner", "type": "user", "auth": {}})

    async def create(self, request):
        body = await request.json()
        name = f"{body['organization']}/{body['name']}"
        if name in self.repos:
            return JSONResponse({"error": "You already created this model repo", "url": f"{self.url}/{name}"}, 409)
        self.repos[name] = {"main": {".gitattributes": b"*.safetensors filter=lfs\n"}}
        self.private[name] = body.get("visibility") == "private" or bool(body.get("private"))
        return JSONResponse({"url": f"{self.url}/{name}"})

    async def validate(self, request):
        text = (await request.json())["content"]
        return JSONResponse({"errors": [], "warnings": [] if text.startswith("---\n") else [{"message": "empty"}]})

    async def branch(self, request):
        branches = self.repos[self._repo(request)]
        if request.path_params["rev"] in branches:
            return JSONResponse({"error": "Reference already exists"}, 409)
        branches[request.path_params["rev"]] = dict(branches["main"])
        return JSONResponse({})

    async def preupload(self, request):
        if self._branch(request) is None:
            return JSONResponse({"error": "Repository Not Found"}, 404, {"X-Error-Code": "RepoNotFound"})
        files = (await request.json())["files"]
        large = (".safetensors", ".parquet")
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(large) else "regular", "shouldIgnore": False}
            for f in files
        ]
        return JSONResponse({"files": modes})

    async def lfs_batch(self, request):
        body = await request.json()
        assert (body["operation"], body["hash_algo"]) == ("upload", "sha256")
        objects = []
        for item in body["objects"]:
            found = dict(item)
            if item["oid"] not in self.blobs:
                found["actions"] = {
                    "upload": {"href": f"{self.url}/lfs/{item['oid']}", "header": {}},
                    "verify": {"href": f"{self.url}/lfs/verify", "header": {}},
                }
            objects.append(found)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def lfs_put(self, request):
        content = await request.body()
        assert hashlib.sha256(content).hexdigest() == request.path_params["oid"]
        self.blobs[request.path_params["oid"]] = content
        return Response()

    async def lfs_verify(self, request):
        body = await request.json()
        there = len(self.blobs.get(body["oid"], b"")) == body["size"]
        return JSONResponse({}, 200 if there else 404)

    async def commit(self, request):
        if self.refuse:
            return JSONResponse({"error": self.refuse[1]}, self.refuse[0])
        files = dict(self._branch(request))
        header, *rows = (json.loads(line) for line in (await request.body()).splitlines())
        assert header["key"] == "header"
        for row in rows:
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            else:
                assert row["key"] == "deletedFile"
                del files[value["path"]]
        self.repos[self._repo(request)][request.path_params["rev"]] = files
        self.commits.append((self._repo(request), request.path_params["rev"], header["value"]["summary"], len(rows)))
        sha = self._sha(files)
        return JSONResponse({"commitUrl": f"{self.url}/{self._repo(request)}/commit/{sha}", "commitOid": sha})

    async def info(self, request):
        files = self._branch(request)
        if files is None:
            what = "Revision" if self._repo(request) in self.repos else "Repo"
            return JSONResponse({"error": f"{what} not found"}, 404, {"X-Error-Code": f"{what}NotFound"})
        siblings = [{"rfilename": path} for path in files]
        name = self._repo(request)
        about = {"id": name, "modelId": name, "sha": self._sha(files), "private": self.private.get(name, False)}
        return JSONResponse({"_id": "1", "siblings": siblings, **about})

    async def tree(self, request):
        def row(path, content):
            return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

        return JSONResponse([row(path, content) for path, content in self._branch(request).items()])

    async def resolve(self, request):
        files = self._branch(request)
        content = (files or {}).get(request.path_params["path"])
        if content is None:
            return JSONResponse({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": self._sha(files), "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return Response(content, headers=headers, media_type="application/octet-stream")


@contextlib.contextmanager
def serving(hub):
    """Serve a FakeHub on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub.url = f"http://127.0.0.1:{port}"
    server = uvicorn.Server(uvicorn.Config(hub.app, host="127.0.0.1", port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    assert server.started
    try:
        yield hub
    finally:
        server.should_exit = True
        thread.join(10)
