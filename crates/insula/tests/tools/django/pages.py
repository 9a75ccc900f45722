"""Django's own session, user and admin pages, as whoever DATABASE_URL names.

Prints what it saw as JSON; a page that does not answer as it must ends it.
"""

import json
import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")

import django

django.setup()

from blog.models import Post, Tag
from django.contrib.auth.models import Group, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.db.models import Count
from django.test import Client

name = sys.argv[1]
User.objects.create_superuser("ada", "ada@example.com", "secret-of-ada")
client = Client()


def get(path):
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return answer.content.decode()


def post(path, data, status=302):
    answer = client.post(path, data)
    assert answer.status_code == status, (path, answer.status_code, answer.content.decode()[:3000])
    return answer.content.decode()


post("/admin/login/?next=/admin/", {"username": "ada", "password": "wrong"}, 200)
post("/admin/login/?next=/admin/", {"username": "ada", "password": "secret-of-ada"})
assert "Posts" in get("/admin/")
get("/admin/auth/user/?q=ada&is_staff__exact=1")

passwords = {"usable_password": "true", "password1": "secret-of-grace", "password2": "secret-of-grace"}
post("/admin/auth/user/add/", {"username": "grace", **passwords})
grace = User.objects.get(username="grace")
get(f"/admin/auth/user/{grace.id}/change/")
permissions = [permission.id for permission in Permission.objects.filter(content_type__app_label="blog")]
post("/admin/auth/group/add/", {"name": "writers", "permissions": permissions})
for tag in ["rust", "sql"]:
    post("/admin/blog/tag/add/", {"name": tag})
post("/admin/blog/tag/add/", {"name": "sql"}, 200)
hello = {"author": grace.id, "title": f"Hello from {name}", "slug": "hello", "body": "x"}
post("/admin/blog/post/add/", {**hello, "tags": [tag.id for tag in Tag.objects.all()]})
assert "already exists" in post("/admin/blog/post/add/", hello, 200)
assert f"Hello from {name}" in get("/admin/blog/post/?q=hello&tags__id__exact=" + str(Tag.objects.first().id))
get(f"/admin/blog/post/{Post.objects.get().id}/history/")
get(f"/admin/blog/post/{Post.objects.get().id}/change/")

Tag.objects.bulk_create([Tag(name="sql"), Tag(name="new")], ignore_conflicts=True)
upserted = [Tag(name="sql"), Tag(name="newer")]
Tag.objects.bulk_create(upserted, update_conflicts=True, unique_fields=["name"], update_fields=["name"])
counted = {user.username: user.posts for user in User.objects.annotate(posts=Count("post")).order_by("id")}
titles = [post.title for post in Post.objects.select_related("author").prefetch_related("tags")]

get(f"/admin/auth/user/{grace.id}/delete/")
seen = {
    "users": sorted(User.objects.values_list("username", flat=True)),
    "tags": sorted(Tag.objects.values_list("name", flat=True)),
    "titles": titles,
    "counted": counted,
    "group_permissions": Group.objects.get(name="writers").permissions.count(),
    "content_types": sorted(ContentType.objects.values_list("app_label", "model")),
    "permissions": Permission.objects.count(),
    "sessions": Session.objects.count(),
}
post(f"/admin/auth/user/{grace.id}/delete/", {"post": "yes"})
seen["posts_after"] = Post.objects.count()
post("/admin/logout/", {}, 200)
assert client.get("/admin/").status_code == 302
print(json.dumps(seen))
